// Every method against a direct implementation in double over whole vectors.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/methods/awd_solver.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

using Vector = std::vector<double>;

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double Norm(const Vector& a) { return std::sqrt(Dot(a, a)); }

double MeanNorm(const std::vector<Vector>& taus) {
  double sum = 0;
  for (const Vector& tau : taus) sum += Norm(tau);
  return sum / static_cast<double>(taus.size());
}

// sum_i (tau_i - delta) with delta by the paper's iteration on the vectors themselves.
Vector Disentangled(const std::vector<Vector>& taus, const AwdParameters& parameters) {
  const size_t k = taus.size(), d = taus[0].size();
  Vector delta(d, 0.0);
  for (int64_t step = 0; step < parameters.iters; ++step) {
    Vector gradient(d, 0.0);
    std::vector<Vector> v = taus;
    for (Vector& row : v) {
      for (size_t i = 0; i < d; ++i) row[i] -= delta[i];
    }
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) {
        if (i == j) continue;
        const double ni = Norm(v[i]), nj = Norm(v[j]), cosine = Dot(v[i], v[j]) / (ni * nj);
        const double factor = (cosine > 0 ? 1.0 : -1.0) / static_cast<double>(k * (k - 1));
        for (size_t e = 0; e < d; ++e) {
          gradient[e] += factor * (cosine * (v[i][e] / (ni * ni) + v[j][e] / (nj * nj)) -
                                   (v[i][e] + v[j][e]) / (ni * nj));
        }
      }
    }
    const double norm = Norm(delta);
    for (size_t e = 0; e < d; ++e) {
      if (norm > 1e-12) gradient[e] += parameters.alpha * delta[e] / norm;
      delta[e] -= parameters.beta * gradient[e];
    }
  }
  Vector sum(d, 0.0);
  for (const Vector& tau : taus) {
    for (size_t e = 0; e < d; ++e) sum[e] += tau[e] - delta[e];
  }
  return sum;
}

// The same with the vectors scaled to the mean norm `norm` and back.
Vector DisentangledAt(double norm, std::vector<Vector> taus, const AwdParameters& parameters) {
  const double scale = norm / MeanNorm(taus);
  for (Vector& tau : taus) {
    for (double& x : tau) x *= scale;
  }
  Vector sum = Disentangled(taus, parameters);
  for (double& x : sum) x /= scale;
  return sum;
}

// The paper's TIES: thresholds by sorting.
Vector ElectAndMerge(const std::vector<Vector>& taus, double density, const std::string& merge) {
  const size_t d = taus[0].size();
  std::vector<Vector> trimmed = taus;
  for (Vector& tau : trimmed) {
    Vector magnitudes;
    for (const double x : tau) magnitudes.push_back(std::abs(x));
    std::sort(magnitudes.begin(), magnitudes.end());
    const size_t rank = d - static_cast<size_t>(static_cast<double>(d) * density);
    const double threshold = rank == 0 ? 0 : magnitudes[rank - 1];
    for (double& x : tau) x = std::abs(x) >= threshold ? x : 0;
  }
  Vector votes(d, 0.0), merged(d, 0.0);
  double majority = 0;
  for (size_t e = 0; e < d; ++e) {
    for (const Vector& tau : trimmed) votes[e] += tau[e];
    majority += votes[e] > 0 ? 1 : votes[e] < 0 ? -1 : 0;
  }
  for (size_t e = 0; e < d; ++e) {
    const double vote = votes[e] != 0 ? votes[e] : majority;
    double sum = 0, largest = 0, count = 0;
    for (const Vector& tau : trimmed) {
      if (!(tau[e] * vote > 0)) continue;
      sum += tau[e];
      count += 1;
      if (std::abs(tau[e]) > std::abs(largest)) largest = tau[e];
    }
    merged[e] = merge == "max" ? largest : merge == "sum" || count == 0 ? sum : sum / count;
  }
  return merged;
}

class ValuesTest : public EngineTest, public testing::WithParamInterface<int> {
 protected:
  ValuesTest() : k_(GetParam()) {
    std::mt19937_64 random(100 + k_);
    base_ = {RandomTensor("a", DType::kF32, {31, 7}, random),
             RandomTensor("b", DType::kBF16, {257}, random),
             RandomTensor("c", DType::kF16, {5, 3, 11}, random),
             RandomTensor("d", DType::kF64, {13, 19}, random),
             RandomTensor("e", DType::kF32, {64, 17}, random),
             RandomTensor("f", DType::kF32, {}, random)};
    const TestModel shared = Near(base_, random, 0.3);  // what all task vectors have in common
    for (int k = 0; k < k_; ++k) {
      models_.push_back(Near(shared, random, 0.1 * (k + 1)));
      weights_.push_back(0.5 + 0.25 * k);
    }
    WriteModels(base_, models_);
  }

  Recipe WeightedRecipe(const std::string& method, const ParameterMap& parameters = {},
                        bool with_base = true) {
    Recipe recipe = MakeRecipe(method, k_, parameters, with_base);
    for (int k = 0; k < k_; ++k) recipe.models[k].weight = weights_[k];
    recipe.output.dtype = DType::kF64;
    return recipe;
  }

  // Weighted task vectors of a tensor, rounded as the working dtype rounds them.
  std::vector<Vector> Taus(const TestTensor& tensor) const {
    std::vector<Vector> taus;
    const Vector base = tensor.values();
    for (int k = 0; k < k_; ++k) {
      Vector tau = Find(models_[k], tensor.name).values();
      for (size_t i = 0; i < tau.size(); ++i) {
        if (tensor.dtype == DType::kF64) {
          tau[i] = (tau[i] - base[i]) * weights_[k];
        } else {
          const float difference = static_cast<float>(tau[i]) - static_cast<float>(base[i]);
          tau[i] = difference * static_cast<float>(weights_[k]);
        }
      }
      taus.push_back(std::move(tau));
    }
    return taus;
  }

  // The task vectors of the whole model.
  std::vector<Vector> ModelTaus() const {
    std::vector<Vector> all(static_cast<size_t>(k_));
    for (const TestTensor& tensor : base_) {
      const std::vector<Vector> taus = Taus(tensor);
      for (int k = 0; k < k_; ++k) all[k].insert(all[k].end(), taus[k].begin(), taus[k].end());
    }
    return all;
  }

  // `merge` gives the merged task vector of a tensor.
  void Expect(const Recipe& recipe, const std::function<Vector(const TestTensor&)>& merge,
              bool add_base = true) {
    EngineOptions options;
    options.threads = 2;
    options.chunk_size = 64 * kKiB;
    const TestModel merged = Merge(recipe, options);
    for (const TestTensor& tensor : base_) {
      Vector want = merge(tensor);
      const Vector got = Find(merged, tensor.name).values(), base = tensor.values();
      ASSERT_EQ(got.size(), want.size());
      // Task vectors along one line have coefficients of any size that add up to nothing.
      const double tolerance = tensor.dtype == DType::kF64 ? 1e-11
                               : tensor.elements() == 1    ? 1e-4
                                                           : 3e-6;
      for (size_t i = 0; i < want.size(); ++i) {
        if (add_base) want[i] += base[i];
        ASSERT_NEAR(got[i], want[i], tolerance) << recipe.method << " " << tensor.name << " " << i;
      }
    }
  }

  // A vector over the model, cut to the tensor.
  std::function<Vector(const TestTensor&)> PartOf(const Vector& whole, double factor) const {
    return [this, whole, factor](const TestTensor& tensor) {
      auto at = whole.begin();
      for (const TestTensor& before : base_) {
        if (before.name == tensor.name) break;
        at += before.elements();
      }
      Vector part(at, at + tensor.elements());
      for (double& x : part) x *= factor;
      return part;
    };
  }

  std::function<Vector(const TestTensor&)> SumOfTaus(const Vector& factors) const {
    return [this, factors](const TestTensor& tensor) {
      const std::vector<Vector> taus = Taus(tensor);
      Vector sum(taus[0].size(), 0.0);
      for (int k = 0; k < k_; ++k) {
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += factors[k] * taus[k][i];
      }
      return sum;
    };
  }

  const int k_;
  TestModel base_;
  std::vector<TestModel> models_;
  Vector weights_;
};

TEST_P(ValuesTest, Average) {
  double total = 0;
  for (const double weight : weights_) total += weight;
  const auto mean = [&](const TestTensor& tensor) {
    Vector sum(static_cast<size_t>(tensor.elements()), 0.0);
    for (int k = 0; k < k_; ++k) {
      const Vector values = Find(models_[k], tensor.name).values();
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += weights_[k] / total * values[i];
    }
    return sum;
  };
  Expect(WeightedRecipe("average", {}, /*with_base=*/false), mean, /*add_base=*/false);
  Expect(WeightedRecipe("average"), mean, /*add_base=*/false);
  Expect(WeightedRecipe("mergekit.linear", {}, false), mean, /*add_base=*/false);
}

TEST_P(ValuesTest, TaskArithmetic) {
  const auto all = [&](double x) { return Vector(static_cast<size_t>(k_), x); };
  Expect(WeightedRecipe("task_arithmetic", {{"lambda", 0.7}}), SumOfTaus(all(0.7)));
  Expect(WeightedRecipe("mergekit.task_arithmetic", {{"lambda", 0.7}}), SumOfTaus(all(0.7)));
  Expect(WeightedRecipe("task_arithmetic", {{"op", "negate"}}), SumOfTaus(all(-0.3)));
  const Recipe analogy = WeightedRecipe("task_arithmetic", {{"op", "analogy"}});
  if (k_ == 3) {
    Expect(analogy, SumOfTaus({-0.3, 0.3, 0.3}));
  } else {
    EXPECT_THAT(TryPlan(analogy),
                Fails(k_ < 3 ? Reason::kTooFewModels : Reason::kTooManyModels, "exactly 3 models"));
  }
}

TEST_P(ValuesTest, AwdOfTheWholeModel) {
  const std::vector<Vector> taus = ModelTaus();
  const ParameterMap parameters = {{"alpha", 0.002}, {"beta", 2.0}, {"iters", int64_t{40}}};
  const Vector sum = Disentangled(taus, {0.002, 2.0, 40});
  if (k_ > 1) {  // the iteration moved
    EXPECT_GT(std::abs(Norm(sum) - Norm(Disentangled(taus, {0.002, 2.0, 0}))), 0.1);
  }
  Expect(WeightedRecipe("awd", parameters), PartOf(sum, 0.3));
  ParameterMap relative = {{"alpha", 0.1}, {"iters", int64_t{40}}, {"scale", "relative"}};
  Expect(WeightedRecipe("awd", relative), PartOf(DisentangledAt(1, taus, {0.1, 0.01, 40}), 0.3));
}

TEST_P(ValuesTest, AwdPerTensorAndRow) {
  const double norm = MeanNorm(ModelTaus());
  const AwdParameters unit{0.002, 2.0, 40}, relative{0.1, 0.01, 40};
  for (const bool row : {false, true}) {
    for (const bool is_unit : {true, false}) {
      ParameterMap parameters = {{"granularity", row ? "row" : "tensor"},
                                 {"alpha", is_unit ? 0.002 : 0.1},
                                 {"beta", is_unit ? 2.0 : 0.01},
                                 {"iters", int64_t{40}},
                                 {"lambda", 1.0}};
      if (!is_unit) parameters["scale"] = "relative";
      Expect(WeightedRecipe("awd", parameters), [&](const TestTensor& tensor) {
        const std::vector<Vector> taus = Taus(tensor);
        const bool rows = row && tensor.shape.size() == 2;
        const size_t width = rows ? static_cast<size_t>(tensor.shape[1]) : taus[0].size();
        Vector result;
        for (size_t at = 0; at < taus[0].size(); at += width) {
          std::vector<Vector> unit_taus;
          for (const Vector& tau : taus) {
            unit_taus.emplace_back(tau.begin() + at, tau.begin() + at + width);
          }
          const Vector part =
              DisentangledAt(is_unit ? norm : 1, unit_taus, is_unit ? unit : relative);
          result.insert(result.end(), part.begin(), part.end());
        }
        return result;
      });
    }
  }
}

TEST_P(ValuesTest, Ties) {
  for (const double density : {0.2, 0.75, 1.0, 0.001}) {
    for (const std::string merge : {"mean", "sum", "max"}) {
      const Vector merged = ElectAndMerge(ModelTaus(), density, merge);
      Expect(WeightedRecipe("ties", {{"density", density}, {"merge", merge}, {"lambda", 0.6}}),
             PartOf(merged, 0.6));
    }
  }
  Expect(WeightedRecipe("ties", {{"density", 40.0}}),  // per cent
         PartOf(ElectAndMerge(ModelTaus(), 0.4, "mean"), 1));
}

TEST_P(ValuesTest, TiesAfterAwd) {
  std::vector<Vector> taus = ModelTaus();
  Vector gram;
  for (const Vector& a : taus) {
    for (const Vector& b : taus) gram.push_back(Dot(a, b));
  }
  const Vector c = SolveAwd(gram, k_, {0.002, 2.0, 40}).c;
  // As in the working dtype, so that the same entries pass the threshold.
  size_t element = 0;
  for (const TestTensor& tensor : base_) {
    for (int64_t i = 0; i < tensor.elements(); ++i, ++element) {
      double delta = 0;
      float delta32 = static_cast<float>(c[0]) * static_cast<float>(taus[0][element]);
      for (int k = 0; k < k_; ++k) delta += c[k] * taus[k][element];
      for (int k = 1; k < k_; ++k) {
        delta32 = delta32 + static_cast<float>(c[k]) * static_cast<float>(taus[k][element]);
      }
      for (Vector& tau : taus) {
        tau[element] = tensor.dtype == DType::kF64 ? tau[element] - delta
                                                   : static_cast<float>(tau[element]) - delta32;
      }
    }
  }
  Recipe recipe = WeightedRecipe("ties", {{"density", 0.3}});
  AddTransform("awd", {{"alpha", 0.002}, {"beta", 2.0}, {"iters", int64_t{40}}}, &recipe);
  Expect(recipe, PartOf(ElectAndMerge(taus, 0.3, "mean"), 1));
}

INSTANTIATE_TEST_SUITE_P(Models, ValuesTest, testing::Range(1, 6));

}  // namespace
}  // namespace orthomerge
