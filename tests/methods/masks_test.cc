// The methods that select entries, against their formulas written down directly in float64, and the
// worked examples of the definitions.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "gtest/gtest.h"
#include "tests/methods/programs.h"

namespace orthomerge {
namespace {

using Vector = std::vector<double>;
using Output = std::vector<Vector>;

// theta_0 and three task vectors of four entries; by default one tensor.
MemoryModel Example(const std::vector<int64_t>& shape = {4}) {
  return {{"t",
           shape,
           {1, -2, 0.5, 3},
           {{0.4, -0.2, 0.1, 0.0}, {0.3, 0.5, -0.1, 0.2}, {-0.1, 0.2, 0.6, 0.3}}}};
}

Output Merged(const std::string& method, const ParameterMap& parameters, const MemoryModel& model,
              bool f64 = true, int64_t block = 0) {
  const auto k = static_cast<int>(model[0].rows.size());

  return RunMethod(SpecOf(method, parameters, k), {}, model, f64, block);
}

void ExpectNear(const Output& got, const Output& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t t = 0; t < got.size(); ++t) {
    ASSERT_EQ(got[t].size(), want[t].size());
    for (size_t i = 0; i < got[t].size(); ++i) {
      ASSERT_NEAR(got[t][i], want[t][i], tolerance) << "tensor " << t << ", element " << i;
    }
  }
}

// What a rule over the flattened model gives: task vectors in, merged task vector out.
using Rule = std::function<Vector(const std::vector<Vector>&)>;

Output Apply(const MemoryModel& model, const Rule& rule) {
  std::vector<Vector> flat(model[0].rows.size());
  for (const MemoryTensor& tensor : model) {
    for (size_t k = 0; k < flat.size(); ++k) {
      flat[k].insert(flat[k].end(), tensor.rows[k].begin(), tensor.rows[k].end());
    }
  }
  const Vector merged = rule(flat);
  Output out;
  size_t at = 0;
  for (const MemoryTensor& tensor : model) {
    out.push_back(tensor.base);
    for (double& x : out.back()) x += merged[at++];
  }
  return out;
}

// The method gives what the rule says, in both working dtypes and for any regions.
void ExpectRule(const std::string& method, const ParameterMap& parameters, const Rule& rule,
                unsigned seed, int k = 4) {
  const MemoryModel model = RandomModel(k, seed);
  const Output want = Apply(model, rule);
  for (const bool f64 : {true, false}) {
    for (const int64_t block : {0, 16, 48}) {
      ExpectNear(Merged(method, parameters, model, f64, block), want, f64 ? 1e-12 : 2e-6);
    }
  }
}

Vector Sum(const std::vector<Vector>& rows) {
  Vector sum(rows[0].size(), 0.0);
  for (const Vector& row : rows) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += row[i];
  }
  return sum;
}

Vector Sorted(Vector values) {
  std::sort(values.begin(), values.end());
  return values;
}

Vector Magnitudes(Vector values) {
  for (double& x : values) x = std::abs(x);
  return values;
}

// The disjoint sum of TIES, by sorting.
Vector TiesSum(std::vector<Vector> rows, double density) {
  for (Vector& row : rows) {
    const size_t d = row.size();
    const double threshold = Sorted(Magnitudes(row))[d - static_cast<size_t>(d * density) - 1];
    for (double& x : row) x = std::abs(x) >= threshold ? x : 0;
  }
  const Vector vote = Sum(rows);
  Vector merged(vote.size(), 0.0);
  for (const Vector& row : rows) {
    for (size_t i = 0; i < merged.size(); ++i) merged[i] += row[i] * vote[i] > 0 ? row[i] : 0;
  }
  return merged;
}

bool Uses(const Vector& own, const Vector& multi_task, size_t i, double lambda) {
  return std::abs(own[i]) > lambda * std::abs(multi_task[i] - own[i]);
}

TEST(Breadcrumbs, WorkedExample) {
  const ParameterMap parameters = {{"density", 0.5}, {"gamma", 0.25}, {"lambda", 1.0}};
  ExpectNear(Merged("breadcrumbs", parameters, Example()), {{1.3, -2, 0.6, 3.5}}, 1e-12);
}

TEST(Breadcrumbs, RowsRunAlongTheLastAxis) {
  const MemoryModel model = RandomModel(3, 20);
  const double density = 0.2, gamma = 0.1, lambda = 0.4;
  Output want;
  for (const MemoryTensor& tensor : model) {
    want.push_back(tensor.base);
    const int64_t n = tensor.shape.empty() ? 0 : tensor.shape.back();
    for (const Vector& row : tensor.rows) {
      for (size_t i = 0; i < row.size(); ++i) {
        if (n == 0) {  // a scalar's stays
          want.back()[i] += lambda * row[i];
          continue;
        }
        // Larger entries of the same row before this one.
        const size_t start = i / n * n;
        const auto rank = std::count_if(row.begin() + start, row.begin() + start + n,
                                        [&](double x) { return std::abs(x) > std::abs(row[i]); });
        const auto top = static_cast<int64_t>(n * gamma), keep = static_cast<int64_t>(n * density);
        if (rank >= top && rank < top + keep) want.back()[i] += lambda * row[i];
      }
    }
  }
  const ParameterMap parameters = {{"density", density}, {"gamma", gamma}, {"lambda", lambda}};
  for (const bool f64 : {true, false}) {
    ExpectNear(Merged("breadcrumbs", parameters, model, f64), want, f64 ? 1e-12 : 1e-6);
    ExpectNear(Merged("breadcrumbs", parameters, model, f64, 100), want, f64 ? 1e-12 : 1e-6);
  }
  // Four axes are rows of the last one, too.
  MemoryModel flat = {RandomModel(3, 21)[2]}, deep = flat;
  flat[0].shape = {61, 3};
  deep[0].shape = {1, 61, 1, 3};
  EXPECT_EQ(Merged("breadcrumbs", {{"density", 0.7}, {"gamma", 0.4}}, deep),
            Merged("breadcrumbs", {{"density", 0.7}, {"gamma", 0.4}}, flat));
}

TEST(Breadcrumbs, EqualMagnitudesGoByTheLowestIndex) {
  const MemoryModel model = {{"t", {6}, Vector(6, 0.0), {{1, -1, 1, 1, -1, 1}}}};
  const ParameterMap parameters = {{"density", 0.5}, {"gamma", 0.34}, {"lambda", 1.0}};
  EXPECT_EQ(Merged("breadcrumbs", parameters, model), (Output{{0, 0, 1, 1, -1, 0}}));
  // More than everything: all that is left after the outliers.
  const ParameterMap all = {{"density", 1.0}, {"gamma", 0.5}, {"lambda", 1.0}};
  EXPECT_EQ(Merged("breadcrumbs", all, model), (Output{{0, 0, 0, 1, -1, 1}}));
  const ParameterMap none = {{"density", 1.0}, {"gamma", 1.0}, {"lambda", 1.0}};
  EXPECT_EQ(Merged("breadcrumbs", none, model)[0], Vector(6, 0.0));
}

TEST(ModelStock, WorkedExamples) {
  ExpectNear(Merged("model_stock", {}, Example()),
             {{1.02422082, -1.97981599, 0.52422082, 3.02018401}}, 1e-8);
  ExpectNear(Merged("model_stock", {{"filter_wise", true}}, Example({2, 2})),
             {{0.95742266, -2.03548112, 0.56890055, 3.05741712}}, 1e-8);
  // One row, whether of one axis or of two; rows run along the first axis.
  ExpectNear(Merged("model_stock", {{"filter_wise", true}}, Example()),
             Merged("model_stock", {}, Example()), 1e-15);
  ExpectNear(Merged("model_stock", {{"filter_wise", true}}, Example({2, 1, 2})),
             Merged("model_stock", {{"filter_wise", true}}, Example({2, 2})), 1e-15);
}

TEST(ModelStock, AgreesWithItsFormulaPerTensor) {
  const MemoryModel model = RandomModel(3, 22);
  Output want;
  for (const MemoryTensor& tensor : model) {
    double cosines = 0;
    for (size_t a = 0; a < 3; ++a) {
      for (size_t b = 0; b < a; ++b) {
        const auto dot = [&](size_t i, size_t j) {
          return std::inner_product(tensor.rows[i].begin(), tensor.rows[i].end(),
                                    tensor.rows[j].begin(), 0.0);
        };
        cosines += dot(a, b) / std::sqrt(dot(a, a) * dot(b, b)) / 3;
      }
    }
    const double t = 3 * cosines / (1 + 2 * cosines);
    want.push_back(tensor.base);
    const Vector sum = Sum(tensor.rows);
    for (size_t i = 0; i < sum.size(); ++i) want.back()[i] += t / 3 * sum[i];
  }
  for (const int64_t block : {0, 16, 100}) {
    ExpectNear(Merged("model_stock", {}, model, true, block), want, 1e-11);
    ExpectNear(Merged("model_stock", {}, model, false, block), want, 1e-5);
  }
}

TEST(ModelStock, DegenerateTaskVectors) {
  MemoryModel model = {{"t", {2}, {1, 2}, {{0.5, 0.5}, {-0.5, -0.5}}}};
  EXPECT_EQ(Merged("model_stock", {}, model)[0], model[0].base);  // they cancel out
  model[0].rows[1] = {0, 0};
  EXPECT_EQ(Merged("model_stock", {}, model)[0], model[0].base);  // orthogonal
  model[0].rows[1] = model[0].rows[0];
  EXPECT_EQ(Merged("model_stock", {}, model)[0], (Vector{1.5, 2.5}));  // the mean
  EXPECT_EQ(FindMethod("model_stock")->min_models, 2);
}

TEST(Consensus, WorkedExamples) {
  ExpectNear(Merged("consensus", {{"mask_lambda", 0.4}, {"lambda", 0.3}}, Example()),
             {{1.18, -1.85, 0.5, 3.15}}, 1e-12);
  EXPECT_EQ(Merged("consensus", {{"mask_lambda", 1.0}, {"lambda", 0.3}}, Example())[0],
            Example()[0].base);
}

TEST(Consensus, AgreesWithItsFormula) {
  for (const bool ties : {false, true}) {
    for (const int64_t min_count : {0, 1, 2, 4, 5}) {
      const auto rule = [&](const std::vector<Vector>& rows) {
        Vector merged = ties ? TiesSum(rows, 0.3) : Sum(rows);
        const Vector multi_task = merged;
        for (size_t i = 0; i < merged.size(); ++i) {
          int64_t count = 0;
          for (const Vector& row : rows) count += Uses(row, multi_task, i, 0.45) ? 1 : 0;
          merged[i] = count >= min_count ? 0.7 * multi_task[i] : 0;
        }
        return merged;
      };
      ExpectRule("consensus",
                 {{"mask_lambda", 0.45},
                  {"min_count", min_count},
                  {"lambda", 0.7},
                  {"mtl", ties ? "ties" : "ta"},
                  {"density", ties ? 30.0 : 0.2}},
                 rule, 23);
    }
  }
}

TEST(TallMasks, RebuildsTheTask) {
  ExpectNear(Merged("tall_masks", {{"mask_lambda", 0.4}, {"task", int64_t{0}}}, Example()),
             {{1.6, -2, 0.5, 3}}, 1e-12);
  for (const bool ties : {false, true}) {
    const auto rule = [&](const std::vector<Vector>& rows) {
      Vector merged = ties ? TiesSum(rows, 0.2) : Sum(rows);
      const Vector multi_task = merged;
      for (size_t i = 0; i < merged.size(); ++i) {
        if (!Uses(rows[2], multi_task, i, 0.6)) merged[i] = 0;
      }
      return merged;
    };
    ExpectRule("tall_masks",
               {{"mask_lambda", 0.6}, {"task", int64_t{2}}, {"mtl", ties ? "ties" : "ta"}}, rule,
               24);
  }
}

TEST(TallMasks, EveryTaskMayHaveItsOwnMaskLambda) {
  MethodSpec spec = SpecOf("tall_masks", {{"task", int64_t{1}}}, 3);
  spec.model_parameters = {{{"mask_lambda", 9.0}}, {{"mask_lambda", 0.4}}, {{"mask_lambda", 9.0}}};
  ExpectNear(RunMethod(spec, {}, Example(), true),
             Merged("tall_masks", {{"mask_lambda", 0.4}, {"task", int64_t{1}}}, Example()), 0);
}

// From the merged model, base + multi-task vector, and a mask, the task's model.
void ExpectRebuilds(const std::string& method, const ParameterMap& parameters,
                    const std::vector<MethodSpec>& transforms, const Vector& rescalers) {
  MemoryModel model = RandomModel(3, 31);
  model[1].rows[0][7] = NAN;
  for (const bool f64 : {true, false}) {
    const MethodSpec all = SpecOf(method, parameters, 3);
    const Output merged = RunMethod(all, transforms, model, f64, 16);
    for (size_t task = 0; task < 3; ++task) {
      MethodSpec one = all;
      one.parameters["task"] = static_cast<int64_t>(task);
      const Output want = RunMethod(one, transforms, model, f64);
      const Output mask = RunMethod(all, transforms, model, f64, 48, /*sink=*/1 + task);
      for (size_t t = 0; t < model.size(); ++t) {
        for (size_t i = 0; i < want[t].size(); ++i) {
          ASSERT_TRUE(mask[t][i] == 0 || mask[t][i] == 1);
          if (t == 1 && i == 7) {  // not finite: stays visible in every model
            EXPECT_TRUE(std::isnan(merged[t][i]) && mask[t][i] == 1);
            continue;
          }
          const double base = model[t].base[i];
          const double got =
              mask[t][i] == 0 ? base : base + rescalers[task] * (merged[t][i] - base);
          ASSERT_NEAR(got, want[t][i], f64 ? 1e-12 : 1e-6);
          if (rescalers[task] == 1 && mask[t][i] != 0) {
            ASSERT_EQ(merged[t][i], want[t][i]);
          }
        }
      }
    }
  }
}

TEST(TallMasks, MasksRebuildEveryTask) {
  const Vector ones(3, 1.0);
  ExpectRebuilds("tall_masks", {{"mask_lambda", 0.5}}, {}, ones);
  ExpectRebuilds("tall_masks", {{"mtl", "ties"}}, {}, ones);
  ExpectRebuilds("tall_masks", {}, {SpecOf("awd", {{"beta", 0.1}}, 3)}, ones);
}

TEST(TallMasks, EveryMaskIsAFileWithItsLambda) {
  MethodSpec spec = SpecOf("tall_masks", {}, 2);
  spec.model_parameters[1]["mask_lambda"] = 0.75;
  const auto method = *MakeMethod(spec, {});
  ASSERT_TRUE(method->Prepare({}).ok());
  EXPECT_EQ(method->ScalarValues({}), (Vector{0.4, 0.75}));
  ASSERT_EQ(method->scalars().size(), 2u);
  EXPECT_EQ(method->scalars()[1].artifact, "masks/model1.safetensors");
  EXPECT_EQ(method->scalars()[1].name, "orthomerge.mask_lambda");
  OutputTensor tensor;
  tensor.dtype = DType::kBF16;
  const auto program = *method->Compile(tensor);
  const std::vector<SinkSpec> sinks = program->sinks(tensor);
  ASSERT_EQ(sinks.size(), 3u);
  EXPECT_EQ(sinks[0].artifact, "");
  EXPECT_EQ(sinks[0].dtype, DType::kBF16);
  EXPECT_EQ(sinks[2].artifact, "masks/model1.safetensors");
  EXPECT_TRUE(sinks[2].bits);
  // One task's model is alone.
  spec.parameters["task"] = int64_t{1};
  const auto one = *MakeMethod(spec, {});
  ASSERT_TRUE(one->Prepare({}).ok());
  EXPECT_TRUE(one->scalars().empty());
  EXPECT_EQ((*one->Compile(tensor))->sinks(tensor).size(), 1u);
}

TEST(TallMasks, ATaskThatIsNoneIsRefused) {
  for (const char* method : {"tall_masks", "emr"}) {
    MethodSpec spec = SpecOf(method, {{"task", int64_t{3}}}, 3);
    const absl::Status status = (*MakeMethod(spec, {}))->Prepare({});
    EXPECT_EQ(ReasonOf(status), Reason::kOutOfRange);
    EXPECT_NE(status.message().find("task: 3 is no model of this recipe, which has 3"),
              std::string::npos)
        << status.message();
  }
}

TEST(Emr, WorkedExamples) {
  const ParameterMap first = {{"task", int64_t{0}}}, second = {{"task", int64_t{1}}};
  ExpectNear(Merged("emr", first, Example()), {{1.28, -2, 0.92, 3}}, 1e-12);
  // As two tensors, {first} and {the others}: rho = 0.8333, 0.85, 1.
  MemoryModel split = {
      {"a", {1}, {1}, {{0.4}, {0.3}, {-0.1}}},
      {"b", {3}, {-2, 0.5, 3}, {{-0.2, 0.1, 0.0}, {0.5, -0.1, 0.2}, {0.2, 0.6, 0.3}}}};
  ExpectNear(Merged("emr", first, split), {{1 + 0.4 / 1.2}, {-2, 0.5 + 0.5, 3}}, 1e-12);
  ExpectNear(Merged("emr", second, split), {{1.34}, {-2 + 0.425, 0.5, 3 + 0.255}}, 1e-12);
}

TEST(Emr, AgreesWithItsFormula) {
  const MemoryModel model = RandomModel(4, 25);
  Output want;
  double own = 0, unified = 0;
  std::vector<Vector> masked;
  for (const MemoryTensor& tensor : model) {
    const Vector sum = Sum(tensor.rows);
    masked.emplace_back(sum.size(), 0.0);
    for (size_t i = 0; i < sum.size(); ++i) {
      const double gamma = sum[i] > 0 ? 1 : -1;
      double most = 0;
      for (const Vector& row : tensor.rows) most = std::max(most, gamma * row[i]);
      if (tensor.rows[3][i] * gamma > 0) masked.back()[i] = gamma * most;
      own += std::abs(tensor.rows[3][i]) / sum.size();
      unified += std::abs(masked.back()[i]) / sum.size();
    }
  }
  for (size_t t = 0; t < model.size(); ++t) {
    want.push_back(model[t].base);
    for (size_t i = 0; i < masked[t].size(); ++i) want[t][i] += own / unified * masked[t][i];
  }
  for (const int64_t block : {0, 16, 100}) {
    ExpectNear(Merged("emr", {{"task", int64_t{3}}}, model, true, block), want, 1e-12);
    ExpectNear(Merged("emr", {{"task", int64_t{3}}}, model, false, block), want, 1e-6);
  }
}

TEST(Emr, MasksAndRescalersRebuildEveryTask) {
  for (const bool after_awd : {false, true}) {
    MemoryModel model = RandomModel(3, 31);
    model[1].rows[0][7] = NAN;
    std::vector<MethodSpec> transforms;
    if (after_awd) transforms.push_back(SpecOf("awd", {{"beta", 0.1}}, 3));
    // The rescalers, as far as one element tells them.
    Vector rescalers;
    for (size_t task = 0; task < 3; ++task) {
      const Output merged = RunMethod(SpecOf("emr", {}, 3), transforms, model, true);
      const Output mask = RunMethod(SpecOf("emr", {}, 3), transforms, model, true, 0, 1 + task);
      const Output one = RunMethod(SpecOf("emr", {{"task", static_cast<int64_t>(task)}}, 3),
                                   transforms, model, true);
      const auto at = std::find(mask[0].begin(), mask[0].end(), 1) - mask[0].begin();
      rescalers.push_back((one[0][at] - model[0].base[at]) / (merged[0][at] - model[0].base[at]));
    }
    ExpectRebuilds("emr", {}, transforms, rescalers);
  }
}

TEST(Emr, OneModelComesBack) {
  const MemoryModel model = RandomModel(1, 26);
  const Output got = Merged("emr", {{"task", int64_t{0}}}, model);
  ExpectNear(got, Apply(model, [](const std::vector<Vector>& rows) { return rows[0]; }), 1e-12);
}

TEST(Tatr, WorkedExample) {
  // The sensitivities of the first entry and of the threshold are the same number.
  ExpectNear(Merged("tatr", {{"quantile", 0.5}, {"lambda", 0.3}}, Example()), {{1, -2, 0.68, 3.15}},
             1e-12);
}

TEST(Tatr, AgreesWithItsFormula) {
  for (const double quantile : {0.0, 0.3, 0.9, 1.0}) {
    const auto rule = [&](const std::vector<Vector>& rows) {
      Vector merged = Sum(rows), omega(merged.size(), 0.0);
      for (size_t i = 0; i < omega.size(); ++i) {
        for (size_t a = 0; a < rows.size(); ++a) {
          for (size_t b = 0; b < rows.size(); ++b) {
            if (a != b) omega[i] += std::abs(rows[a][i]) * std::abs(rows[b][i]);
          }
        }
      }
      const size_t d = omega.size();
      const double threshold = Sorted(omega)[std::min(static_cast<size_t>(d * quantile), d - 1)];
      // Roundings of the sum above would tell the threshold's own entry from the threshold.
      for (size_t i = 0; i < d; ++i) {
        merged[i] = omega[i] < threshold * (1 - 1e-12) ? 0.3 * merged[i] : 0;
      }
      return merged;
    };
    for (const int k : {4, 6}) ExpectRule("tatr", {{"quantile", quantile}}, rule, 27, k);
  }
}

TEST(Pcb, WorkedExample) {
  const ParameterMap parameters = {{"ratio", 0.5}, {"lambda", 1.2}};
  ExpectNear(Merged("pcb", parameters, Example()), {{1.24, -1.64, 0.86, 3.0}}, 1e-12);
}

TEST(Pcb, AgreesWithItsFormula) {
  const auto clamp = [](Vector values, double low, double high) {
    const Vector sorted = Sorted(values);
    const auto d = static_cast<double>(values.size());
    const double a = sorted[static_cast<size_t>(d * low)];
    const double b = sorted[static_cast<size_t>(d * (1 - high) - 1)];
    for (double& x : values) x = std::clamp(x, a, b);
    return values;
  };
  const auto normalise = [](Vector values) {
    const Vector sorted = Sorted(values);
    for (double& x : values) x = (x - sorted.front()) / (sorted.back() - sorted.front());
    return values;
  };
  for (const double ratio : {0.05, 0.5, 1.0}) {
    const auto rule = [&](const std::vector<Vector>& rows) {
      const Vector sum = Sum(rows);
      Vector merged(sum.size(), 0.0), scores(sum.size(), 0.0);
      for (const Vector& row : rows) {
        const Vector a = clamp(Magnitudes(row), 1e-4, 1e-4), n = normalise(a);
        Vector beta(row.size());
        for (size_t i = 0; i < row.size(); ++i) {
          beta[i] = std::exp(rows.size() * n[i] * n[i]) * std::tanh(row[i] * sum[i]);
        }
        const Vector s = normalise(clamp(beta, 1 - ratio, 0));
        for (size_t i = 0; i < row.size(); ++i) {
          merged[i] += s[i] * std::copysign(a[i], row[i]);
          scores[i] += s[i];
        }
      }
      for (size_t i = 0; i < sum.size(); ++i) merged[i] *= 1.2 / std::max(scores[i], 1e-12);
      return merged;
    };
    ExpectRule("pcb", {{"ratio", ratio}, {"lambda", 1.2}}, rule, 28);
  }
}

TEST(Pcb, ConstantTaskVectorsScoreNothing) {
  MemoryModel model = {{"t", {4}, {1, 2, 3, 4}, {Vector(4, 0.5), Vector(4, 0.5)}}};
  EXPECT_EQ(Merged("pcb", {}, model)[0], model[0].base);
}

TEST(Pcb, SumsOverModelsAreNotInFloat32) {
  // In float32 the first element's sum would be 0, and the second's infinite.
  const double big = 0x1p24, huge = 3e38;
  const MemoryModel model = {{"t",
                              {2, 3},
                              Vector(6, 0.0),
                              {{big, huge, 0.2, 4, -1, 2},
                               {1, huge, 0.5, -3, 2, 3},
                               {1, 0, -0.7, 2, 0.5, -4},
                               {-big, 0, 0.1, 1, 3, 1}}}};
  const ParameterMap parameters = {{"ratio", 0.9}, {"lambda", 0.5}};
  const Vector narrow = Merged("pcb", parameters, model, false)[0];
  const Vector wide = Merged("pcb", parameters, model, true)[0];
  EXPECT_GT(wide[0], 0);
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_NEAR(narrow[i], wide[i], 1e-5 * std::abs(wide[i])) << i;
  }
  // In float64 such a sum is infinite, too: an entry of 0 has no part in it.
  MemoryModel largest = model;
  for (Vector& row : largest[0].rows) row[1] = row[1] == 0 ? 0 : 1.7e308;
  const Vector merged = Merged("pcb", parameters, largest, true)[0];
  for (const double x : merged) EXPECT_TRUE(std::isfinite(x)) << x;
}

TEST(Dare, KeepsTheRightShareAndRescales) {
  for (const double density : {0.1, 0.5, 0.9}) {
    for (const uint64_t seed : {0, 1, 77}) {
      MethodSpec spec = SpecOf("dare", {{"density", density}, {"lambda", 1.0}}, 2);
      spec.seed = seed;
      constexpr size_t kElements = 40000;
      // The two models do not touch each other's entries.
      MemoryModel model = {{"t", {200, 200}, Vector(kElements, 0.0), {}}};
      model[0].rows = {Vector(kElements, 0.0), Vector(kElements, 0.0)};
      for (size_t i = 0; i < kElements; i += 2) {
        model[0].rows[0][i] = 0.25;
        model[0].rows[1][i + 1] = -0.5;
      }
      const Vector got = RunMethod(spec, {}, model, true)[0];
      size_t kept[2] = {0, 0}, both = 0;
      for (size_t i = 0; i < kElements; i += 2) {
        EXPECT_TRUE(got[i] == 0 || got[i] == 0.25 / density) << got[i];
        EXPECT_TRUE(got[i + 1] == 0 || got[i + 1] == -0.5 / density) << got[i + 1];
        kept[0] += got[i] != 0;
        kept[1] += got[i + 1] != 0;
        both += got[i] != 0 && got[i + 1] != 0;
      }
      const double n = kElements / 2.0;
      const auto expect_share = [n](size_t count, double p) {
        EXPECT_NEAR(count, n * p, 5 * std::sqrt(n * p * (1 - p)));
      };
      expect_share(kept[0], density);
      expect_share(kept[1], density);
      expect_share(both, density * density);  // independent masks
    }
  }
}

TEST(Dare, MasksBelongToSeedTensorModelAndElement) {
  constexpr size_t kElements = 4000;
  const Vector ones(kElements, 1.0), zeros(kElements, 0.0);
  const auto run = [&](uint64_t seed, const std::string& name, bool second, int64_t block = 0) {
    MethodSpec spec = SpecOf("dare", {{"lambda", 1.0}}, 2);
    spec.seed = seed;
    MemoryModel model = {{name, {static_cast<int64_t>(kElements)}, zeros, {ones, zeros}}};
    if (second) std::swap(model[0].rows[0], model[0].rows[1]);
    return RunMethod(spec, {}, model, false, block)[0];
  };
  const Vector first = run(1, "a", false);
  EXPECT_EQ(run(1, "a", false), first);
  EXPECT_EQ(run(1, "a", false, 48), first);
  const auto expect_independent = [&](const Vector& other) {
    size_t same = 0;
    for (size_t i = 0; i < kElements; ++i) same += first[i] == other[i];
    EXPECT_NEAR(same, kElements / 2.0, 5 * std::sqrt(kElements / 4.0));
  };
  expect_independent(run(2, "a", false));
  expect_independent(run(1, "b", false));
  expect_independent(run(1, "a", true));
}

TEST(Dare, DensityOneIsTaskArithmetic) {
  const MemoryModel model = RandomModel(3, 29);
  for (const bool f64 : {true, false}) {
    EXPECT_EQ(Merged("dare", {{"density", 1.0}, {"lambda", 0.3}}, model, f64),
              Merged("task_arithmetic", {{"lambda", 0.3}}, model, f64));
  }
}

TEST(Dare, TransformsWhatFollows) {
  const MemoryModel model = RandomModel(3, 30);
  const MethodSpec dare = SpecOf("dare", {{"density", 0.6}}, 3);
  ExpectNear(RunMethod(SpecOf("task_arithmetic", {{"lambda", 0.5}}, 3), {dare}, model, true),
             Merged("dare", {{"density", 0.6}, {"lambda", 0.5}}, model), 1e-15);
  // TIES trims what is left: the same entries in every pass.
  const Output once = RunMethod(SpecOf("ties", {}, 3), {dare}, model, false);
  EXPECT_EQ(RunMethod(SpecOf("ties", {}, 3), {dare}, model, false, 16), once);
}

}  // namespace
}  // namespace orthomerge
