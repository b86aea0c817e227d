// Properties of the methods that hold whatever the numbers.
#include "tests/methods/programs.h"

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using Output = std::vector<std::vector<double>>;

struct Case {
  std::string name;
  std::string method;
  ParameterMap parameters;
  std::vector<std::string> transforms;
};

const ParameterMap kQuick = {{"alpha", 0.005}, {"beta", 0.5}, {"iters", int64_t{40}}};

ParameterMap With(ParameterMap parameters, const ParameterMap& more) {
  for (const auto& [name, value] : more) parameters[name] = value;
  return parameters;
}

Output RunCase(const Case& c, const MemoryModel& model, bool f64 = true, int64_t block = 0,
               const ParameterMap& more = {}) {
  const int k = static_cast<int>(model[0].rows.size());
  std::vector<MethodSpec> transforms;
  for (const std::string& name : c.transforms) transforms.push_back(SpecOf(name, kQuick, k));
  return RunMethod(SpecOf(c.method, With(c.parameters, more), k), transforms, model, f64, block);
}

void ExpectNear(const Output& a, const Output& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) {
    ASSERT_EQ(a[t].size(), b[t].size());
    for (size_t i = 0; i < a[t].size(); ++i) {
      ASSERT_NEAR(a[t][i], b[t][i], tolerance) << "tensor " << t << ", element " << i;
    }
  }
}

Output BasesOf(const MemoryModel& model) {
  Output bases;
  for (const MemoryTensor& tensor : model) bases.push_back(tensor.base);
  return bases;
}

double Distance(const Output& a, const Output& b) {
  double most = 0;
  for (size_t t = 0; t < a.size(); ++t) {
    for (size_t i = 0; i < a[t].size(); ++i) most = std::max(most, std::abs(a[t][i] - b[t][i]));
  }
  return most;
}

bool Has(const Case& c, const std::string& parameter) {
  return FindMethod(c.method)->Find(parameter) != nullptr;
}

class ProgramsTest : public testing::TestWithParam<Case> {};

TEST_P(ProgramsTest, OrderOfModelsDoesNotMatter) {
  // A task is a model's number, and so is a part of the place of a random number.
  if (GetParam().parameters.contains("task") || GetParam().method == "dare") return;
  const MemoryModel model = RandomModel(4, 1);
  MemoryModel turned = model;
  for (MemoryTensor& tensor : turned) {
    std::rotate(tensor.rows.begin(), tensor.rows.begin() + 1, tensor.rows.end());
    std::swap(tensor.rows[0], tensor.rows[1]);
  }
  ExpectNear(RunCase(GetParam(), model), RunCase(GetParam(), turned), 1e-9);
}

TEST_P(ProgramsTest, RegionsDoNotMatter) {
  const MemoryModel model = RandomModel(3, 2);
  for (const bool f64 : {false, true}) {
    const Output whole = RunCase(GetParam(), model, f64);
    for (const int64_t block : {16, 48, 1024}) {
      EXPECT_EQ(RunCase(GetParam(), model, f64, block), whole) << block;
    }
  }
}

TEST_P(ProgramsTest, BothWorkingDtypesAgree) {
  const MemoryModel model = RandomModel(3, 3);
  // Near a threshold an entry may fall on either side once a transform has rounded.
  if (!GetParam().transforms.empty() && GetParam().method != "task_arithmetic") return;
  // Coefficients of a scalar are large and add up to little.
  ExpectNear(RunCase(GetParam(), model, false), RunCase(GetParam(), model, true), 2e-4);
}

TEST_P(ProgramsTest, LambdaZeroIsTheBase) {
  if (!Has(GetParam(), "lambda")) return;
  const MemoryModel model = RandomModel(3, 4);
  for (const bool f64 : {false, true}) {
    EXPECT_EQ(RunCase(GetParam(), model, f64, 0, {{"lambda", 0.0}}), BasesOf(model));
  }
  EXPECT_GT(Distance(RunCase(GetParam(), model), BasesOf(model)), 0.1);
}

TEST_P(ProgramsTest, TaskVectorsOfZeroAreTheBase) {
  if (GetParam().method == "average") return;
  MemoryModel model = RandomModel(3, 5);
  for (MemoryTensor& tensor : model) {
    for (auto& row : tensor.rows) std::fill(row.begin(), row.end(), 0.0);
  }
  EXPECT_EQ(RunCase(GetParam(), model), BasesOf(model));
}

TEST_P(ProgramsTest, WhatIsNotFiniteStaysWhereItIs) {
  MemoryModel model = RandomModel(3, 14);
  model[0].rows[1][77] = NAN;
  model[2].rows[0][4] = INFINITY;
  for (const bool f64 : {false, true}) {
    const Output whole = RunCase(GetParam(), model, f64),
                 pieces = RunCase(GetParam(), model, f64, 16);
    for (size_t t = 0; t < whole.size(); ++t) {
      for (size_t i = 0; i < whole[t].size(); ++i) {
        const bool bad = (t == 0 && i == 77) || (t == 2 && i == 4);
        ASSERT_EQ(std::isfinite(whole[t][i]), !bad) << "tensor " << t << ", element " << i;
        if (!bad) {
          ASSERT_EQ(pieces[t][i], whole[t][i]);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Methods, ProgramsTest,
    testing::Values(
        Case{"average", "average", {}, {}}, Case{"task_arithmetic", "task_arithmetic", {}, {}},
        Case{"awd_model", "awd", kQuick, {}},
        Case{"awd_tensor", "awd", With(kQuick, {{"granularity", "tensor"}}), {}},
        Case{"awd_row", "awd", With(kQuick, {{"granularity", "row"}}), {}},
        Case{"awd_relative",
             "awd",
             With(kQuick, {{"granularity", "tensor"}, {"scale", "relative"}, {"beta", 0.01}}),
             {}},
        Case{"ties", "ties", {}, {}},
        Case{"ties_max", "ties", {{"merge", "max"}, {"density", 0.5}}, {}},
        Case{"breadcrumbs", "breadcrumbs", {}, {}}, Case{"consensus", "consensus", {}, {}},
        Case{"consensus_ties", "consensus", {{"mtl", "ties"}}, {}}, Case{"dare", "dare", {}, {}},
        Case{"emr", "emr", {{"task", int64_t{1}}}, {}}, Case{"emr_all", "emr", {}, {}},
        Case{"model_stock", "model_stock", {}, {}},
        Case{"model_stock_rows", "model_stock", {{"filter_wise", true}}, {}},
        Case{"pcb", "pcb", {}, {}}, Case{"tall_masks", "tall_masks", {{"task", int64_t{2}}}, {}},
        Case{"tall_masks_all", "tall_masks", {}, {}}, Case{"tatr", "tatr", {}, {}},
        Case{"awd_then_ties", "ties", {}, {"awd"}},
        Case{"awd_then_breadcrumbs", "breadcrumbs", {}, {"awd"}},
        Case{"awd_then_consensus", "consensus", {{"mtl", "ties"}}, {"awd"}},
        Case{"awd_then_dare", "dare", {}, {"awd"}},
        Case{"awd_then_emr", "emr", {{"task", int64_t{1}}}, {"awd"}},
        Case{"awd_then_model_stock", "model_stock", {}, {"awd"}},
        Case{"awd_then_model_stock_rows", "model_stock", {{"filter_wise", true}}, {"awd"}},
        Case{"awd_then_pcb", "pcb", {}, {"awd"}},
        Case{"awd_then_tall_masks", "tall_masks", {{"task", int64_t{2}}}, {"awd"}},
        Case{"awd_then_tatr", "tatr", {}, {"awd"}},
        Case{"awd_then_task_arithmetic", "task_arithmetic", {}, {"awd"}}),
    [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

TEST(Programs, AwdAsATransformOfTaskArithmeticIsAwd) {
  const MemoryModel model = RandomModel(4, 6);
  const ParameterMap one = {{"lambda", 0.7}};
  ExpectNear(RunCase({"", "awd", kQuick, {}}, model, true, 0, one),
             RunCase({"", "task_arithmetic", {}, {"awd"}}, model, true, 0, one), 1e-12);
}

TEST(Programs, AwdWithoutStepsIsTaskArithmetic) {
  const MemoryModel model = RandomModel(4, 7);
  const Output plain = RunCase({"", "task_arithmetic", {{"lambda", 0.3}}, {}}, model);
  for (const char* granularity : {"model", "tensor", "row"}) {
    const Case none = {"", "awd", {{"granularity", granularity}, {"iters", int64_t{0}}}, {}};
    ExpectNear(RunCase(none, model), plain, 1e-12);
  }
  EXPECT_GT(Distance(RunCase({"", "awd", kQuick, {}}, model), plain), 1e-3);
}

TEST(Programs, ExcludedTensorsGetPlainTaskArithmeticFromAwdAndTheBaseFromOthers) {
  const MemoryModel model = RandomModel(3, 8);
  const ParameterMap exclude = {{"exclude", std::vector<std::string>{"t1"}}, {"lambda", 0.5}};
  const Output plain = RunCase({"", "task_arithmetic", {{"lambda", 0.5}}, {}}, model);
  EXPECT_EQ(RunCase({"", "awd", With(kQuick, exclude), {}}, model)[1], plain[1]);
  EXPECT_EQ(RunCase({"", "ties", exclude, {}}, model)[1], model[1].base);
  // Others are as in a model without it.
  MemoryModel without = model;
  without.erase(without.begin() + 1);
  const Case awd = {"", "awd", With(kQuick, exclude), {}}, ties = {"", "ties", exclude, {}};
  for (const Case& c : {awd, ties}) {
    Output with = RunCase(c, model);
    with.erase(with.begin() + 1);
    EXPECT_EQ(with, RunCase(c, without)) << c.method;
  }
}

TEST(Programs, IdenticalModels) {
  MemoryModel model = RandomModel(3, 9);
  for (MemoryTensor& tensor : model) tensor.rows = {tensor.rows[0], tensor.rows[0], tensor.rows[0]};
  Output sum, one;
  for (const MemoryTensor& tensor : model) {
    sum.push_back(tensor.base);
    one.push_back(tensor.base);
    for (size_t i = 0; i < tensor.base.size(); ++i) {
      sum.back()[i] += 3 * tensor.rows[0][i];
      one.back()[i] += tensor.rows[0][i];
    }
  }
  const ParameterMap whole = {{"lambda", 1.0}};
  for (const char* granularity : {"model", "tensor", "row"}) {  // cosines of 1 have no gradient
    ExpectNear(RunCase({"", "awd", With(kQuick, {{"granularity", granularity}}), {}}, model, true,
                       0, whole),
               sum, 1e-6);
  }
  ExpectNear(RunCase({"", "task_arithmetic", whole, {}}, model), sum, 1e-12);
  ExpectNear(RunCase({"", "ties", {{"density", 1.0}}, {}}, model), one, 1e-12);
  ExpectNear(RunCase({"", "ties", {{"density", 1.0}, {"merge", "sum"}}, {}}, model), sum, 1e-12);
}

TEST(Programs, TiesOfDensityOneKeepsAllEntriesOfTheElectedSign) {
  const MemoryModel model = RandomModel(5, 10);
  const Output got = RunCase({"", "ties", {{"density", 1.0}, {"merge", "sum"}}, {}}, model);
  const Output percent = RunCase({"", "ties", {{"density", 100.0}, {"merge", "sum"}}, {}}, model);
  EXPECT_EQ(got, percent);
  for (size_t t = 0; t < model.size(); ++t) {
    for (size_t i = 0; i < model[t].base.size(); ++i) {
      double vote = 0, sum = 0;
      for (const auto& row : model[t].rows) vote += row[i];
      for (const auto& row : model[t].rows) sum += row[i] * vote > 0 ? row[i] : 0;
      ASSERT_NEAR(got[t][i], model[t].base[i] + sum, 1e-12);
    }
  }
}

TEST(Programs, TiesOfOneModelKeepsItsLargestEntries) {
  const MemoryModel model = RandomModel(1, 11);
  size_t elements = 0, kept = 0;
  double smallest_kept = 1e9, largest_dropped = 0;
  const Output got = RunCase({"", "ties", {{"density", 0.25}}, {}}, model);
  for (size_t t = 0; t < model.size(); ++t) {
    for (size_t i = 0; i < model[t].base.size(); ++i, ++elements) {
      const double magnitude = std::abs(model[t].rows[0][i]);
      if (got[t][i] == model[t].base[i]) {
        largest_dropped = std::max(largest_dropped, magnitude);
      } else {
        ++kept;
        smallest_kept = std::min(smallest_kept, magnitude);
      }
    }
  }
  EXPECT_EQ(kept, elements / 4 + 1);  // the threshold itself stays
  EXPECT_GT(smallest_kept, largest_dropped);
}

TEST(Programs, AModelOfWeightZeroCountsInKOnly) {
  const MemoryModel model = RandomModel(2, 12);
  MemoryModel more = model;
  for (MemoryTensor& tensor : more) tensor.rows.emplace_back(tensor.base.size(), 0.0);
  for (const char* method : {"task_arithmetic", "ties"}) {
    EXPECT_EQ(RunCase({"", method, {}, {}}, more), RunCase({"", method, {}, {}}, model)) << method;
  }
  MethodSpec two = SpecOf("average", {}, 2), three = SpecOf("average", {}, 3);
  three.weights[2] = 0;
  EXPECT_EQ(RunMethod(three, {}, more, true), RunMethod(two, {}, model, true));
  three.weights = {1, -1, 0};
  EXPECT_EQ(ReasonOf((*MakeMethod(three, {}))->Prepare({})), Reason::kOutOfRange);
}

TEST(Programs, WeightsOfAnAverageAreRelative) {
  const MemoryModel model = RandomModel(3, 13);
  MethodSpec spec = SpecOf("average", {}, 3);
  spec.weights = {1, 2, 5};
  const Output small = RunMethod(spec, {}, model, true);
  spec.weights = {10, 20, 50};
  ExpectNear(RunMethod(spec, {}, model, true), small, 1e-14);
  spec.weights = {0, 4, 0};
  for (size_t t = 0; t < model.size(); ++t) {
    EXPECT_EQ(RunMethod(spec, {}, model, true)[t], model[t].rows[1]);
  }
}

TEST(Programs, OnlyTransformsMayTransform) {
  const MethodSpec ties = SpecOf("ties", {}, 2);
  EXPECT_EQ(ReasonOf(MakeMethod(ties, {{SpecOf("task_arithmetic", {}, 2)}}).status()),
            Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(MakeMethod(ties, {{SpecOf("awd", {{"granularity", "row"}}, 2)}}).status()),
            Reason::kUnsupported);
  MethodSpec unknown;
  unknown.name = "no such method";
  EXPECT_EQ(ReasonOf(MakeMethod(unknown, {}).status()), Reason::kUnknownMethod);
}

}  // namespace
}  // namespace orthomerge
