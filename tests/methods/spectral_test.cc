// Spectral methods need the module for dense linear algebra beside the test binary. What they are
// tested against was computed by implementations of the definitions in float64, or by hand.
#include <cmath>

#include "core/base/status.h"
#include "gtest/gtest.h"
#include "tests/methods/programs.h"

namespace orthomerge {
namespace {

using Output = std::vector<std::vector<double>>;

const std::vector<const char*> kMethods = {"iso_c", "iso_cts", "tsv_m", "wudi", "doge", "knots"};

// Two 3 x 3 task matrices over a base of zeros, so that what is written is the merged task vector.
MemoryModel WorkedExample() {
  MemoryTensor tensor;
  tensor.name = "encoder.x.weight";
  tensor.shape = {3, 3};
  tensor.base.assign(9, 0.0);
  tensor.rows = {{0.4, 0.1, 0, -0.2, 0.3, 0.1, 0, 0.2, -0.5},
                 {0.1, -0.3, 0.2, 0.2, 0.5, 0, 0.3, 0.1, 0.2}};
  return {tensor};
}

void ExpectMerged(const std::string& method, const ParameterMap& parameters,
                  const std::vector<double>& want, double tolerance) {
  const Output got = RunMethod(SpecOf(method, parameters, 2), {}, WorkedExample(), true);
  ASSERT_EQ(got.size(), 1);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_NEAR(got[0][i], want[i], tolerance) << method << " " << i;
  }
}

// A model whose matrices all methods take: DOGE goes by names.
MemoryModel NamedModel(int k, unsigned seed) {
  MemoryModel model = RandomModel(k, seed);
  for (MemoryTensor& tensor : model) tensor.name = "encoder." + tensor.name + ".weight";
  return model;
}

ParameterMap Few(const std::string& method) {  // steps, so that tests are fast
  if (method != "wudi" && method != "doge") return {};
  return {{"iters", int64_t{20}}, {"lr", 1e-3}};
}

TEST(Spectral, WorkedExamples) {
  ExpectMerged("iso_c", {{"lambda", 1.0}},
               {0.51694947, -0.12167530, 0.30105209, 0.00245916, 0.56744135, 0.22511830, 0.32470169,
                0.18941864, -0.48100247},
               1e-8);
  ExpectMerged("iso_cts", {{"lambda", 1.0}, {"common_fraction", 0.4}},
               {0.40206013, -0.26803539, 0.37711416, -0.00057220, 0.49932447, 0.35550690,
                0.46266373, 0.23354339, -0.32727689},
               1e-8);
  ExpectMerged("tsv_m", {{"lambda", 1.0}},
               {-0.09524673, -0.22035430, -0.16622545, 0.20092238, 0.49006751, 0.16438317,
                0.05763933, 0.21357233, -0.49164485},
               1e-8);
  ExpectMerged("wudi", {},
               {0.49701041, -0.20295538, 0.19700567, -0.00298251, 0.79700894, 0.10298745,
                0.29702160, 0.29701525, -0.29706674},
               1e-8);
  ExpectMerged("doge", {{"subspace_div", int64_t{3}}, {"density", 0.5}},
               {0.03974841, -0.02672740, 0.02224002, 0.00764661, 0.08075565, 0, 0.03153552,
                0.01447715, -0.03394851},
               1e-8);
  ExpectMerged("knots", {{"density", 0.5}, {"lambda", 1.0}},
               {0.28208370, -0.26947077, -0.05836316, -0.30043645, 0.36478984, 0.21145085,
                0.07009515, 0.05300178, -0.43848704},
               1e-8);
}

TEST(Spectral, IsoCtsOfWhatIsAllCommonIsIsoC) {
  ExpectMerged("iso_cts", {{"common_fraction", 0.8}},  // (3 - 2) / 2 rounds to 0
               {0.51694947, -0.12167530, 0.30105209, 0.00245916, 0.56744135, 0.22511830, 0.32470169,
                0.18941864, -0.48100247},
               1e-8);
  // Nothing in common: the share per task would round up to more than there is.
  for (const auto& row :
       RunMethod(SpecOf("iso_cts", {{"common_fraction", 0.0}}, 2), {}, WorkedExample(), true)) {
    for (const double x : row) EXPECT_TRUE(std::isfinite(x));
  }
}

TEST(Spectral, WorkingTypesAgree) {
  for (const char* method : kMethods) {
    const MemoryModel model = NamedModel(3, 21);
    const MethodSpec spec = SpecOf(method, Few(method), 3);
    const Output wide = RunMethod(spec, {}, model, true);
    const Output narrow = RunMethod(spec, {}, model, false);
    for (size_t t = 0; t < wide.size(); ++t) {
      for (size_t i = 0; i < wide[t].size(); ++i) {
        ASSERT_NEAR(narrow[t][i], wide[t][i], 2e-5) << method << " " << t << " " << i;
      }
    }
  }
}

TEST(Spectral, AwdThatDoesNothingChangesNothing) {
  const MemoryModel model = NamedModel(3, 22);
  const MethodSpec awd = SpecOf("awd", {{"iters", int64_t{0}}}, 3);
  for (const char* method : kMethods) {
    const MethodSpec spec = SpecOf(method, Few(method), 3);
    EXPECT_EQ(RunMethod(spec, {awd}, model, true), RunMethod(spec, {}, model, true)) << method;
  }
}

TEST(Spectral, TransformsComeFirst) {
  // AWD's own vectors, merged by each method, against the method after the transform.
  const MemoryModel model = NamedModel(3, 23);
  const MethodSpec awd = SpecOf("awd", {{"scale", std::string("relative")}}, 3);
  for (const char* method : kMethods) {
    const MethodSpec spec = SpecOf(method, Few(method), 3);
    const Output plain = RunMethod(spec, {}, model, true);
    EXPECT_NE(RunMethod(spec, {awd}, model, true), plain) << method;
  }
}

TEST(Spectral, NoTaskVectorIsTheBase) {
  MemoryModel model = NamedModel(2, 24);
  for (MemoryTensor& tensor : model) {
    for (auto& row : tensor.rows) std::fill(row.begin(), row.end(), 0.0);
  }
  for (const char* method : kMethods) {
    const Output got = RunMethod(SpecOf(method, Few(method), 2), {}, model, false);
    for (size_t t = 0; t < model.size(); ++t) EXPECT_EQ(got[t], model[t].base) << method << t;
  }
}

TEST(Spectral, ATaskOfZerosIsLeftOut) {
  const MemoryModel model = NamedModel(2, 25);
  MemoryModel more = model;
  for (MemoryTensor& tensor : more) tensor.rows.emplace_back(tensor.base.size(), 0.0);
  // WUDI has no constraint of it, KnOTS no direction; DOGE no coefficient, but it counts in K.
  for (const char* method : {"wudi", "knots"}) {
    ParameterMap parameters = Few(method);
    parameters["rest"] = std::string("base");
    const Output two = RunMethod(SpecOf(method, parameters, 2), {}, model, true);
    const Output three = RunMethod(SpecOf(method, parameters, 3), {}, more, true);
    for (size_t t = 0; t < two.size(); ++t) {
      for (size_t i = 0; i < two[t].size(); ++i) ASSERT_NEAR(three[t][i], two[t][i], 1e-9);
    }
  }
  for (const char* method : {"iso_cts", "tsv_m", "doge"}) {
    for (const auto& tensor : RunMethod(SpecOf(method, Few(method), 3), {}, more, true)) {
      for (const double x : tensor) ASSERT_TRUE(std::isfinite(x)) << method;
    }
  }
}

// All tasks lie in the common space: nothing is left of them, not even a number to scale.
TEST(Spectral, IsoCtsOfTasksWithoutARest) {
  MemoryTensor tensor;
  tensor.name = "a";
  tensor.shape = {4, 4};
  tensor.base.assign(16, 0.0);
  tensor.rows = {std::vector<double>(16, 0.0), std::vector<double>(16, 0.0)};
  tensor.rows[0][0] = 1;
  tensor.rows[1][0] = 2;
  const Output got = RunMethod(SpecOf("iso_cts", {{"lambda", 1.0}, {"common_fraction", 0.5}}, 2),
                               {}, {tensor}, true);
  ASSERT_EQ(got.size(), 1);
  double norm = 0;
  for (const double x : got[0]) norm += x * x;
  EXPECT_TRUE(std::isfinite(norm));
  EXPECT_GT(norm, 0);
}

TEST(Spectral, WhatIsNotFiniteFallsBackAndStaysVisible) {
  const double nan = std::nan("");
  for (const char* method : kMethods) {
    MemoryModel model = NamedModel(2, 26);
    model[0].rows[1][7] = nan;
    const bool base = std::string(method) == "wudi" || std::string(method) == "doge";
    const double lambda = std::string(method) == "knots" ? 0.6 : 1;
    const Output got = RunMethod(SpecOf(method, Few(method), 2), {}, model, true);
    for (size_t i = 0; i < model[0].base.size(); ++i) {
      const double mean = (model[0].rows[0][i] + model[0].rows[1][i]) / 2;
      if (i == 7) {
        EXPECT_TRUE(std::isnan(got[0][i])) << method;
      } else {
        ASSERT_NEAR(got[0][i], model[0].base[i] + (base ? 0 : lambda * mean), 1e-12) << method;
      }
    }
    for (const double x : got[2]) ASSERT_TRUE(std::isfinite(x)) << method;
  }
}

TEST(Spectral, RestIsTheBaseOrTheMean) {
  MemoryModel model = RandomModel(2, 27);
  model[0].name = "shared.weight";  // a table by its name
  for (const char* rest : {"base", "mean"}) {
    ParameterMap parameters = Few("wudi");
    parameters["rest"] = std::string(rest);
    const Output got = RunMethod(SpecOf("wudi", parameters, 2), {}, model, true);
    for (const size_t t : {size_t{0}, size_t{1}, size_t{3}}) {
      for (size_t i = 0; i < got[t].size(); ++i) {
        const double mean = (model[t].rows[0][i] + model[t].rows[1][i]) / 2;
        ASSERT_NEAR(got[t][i], model[t].base[i] + (*rest == 'm' ? mean : 0), 1e-12);
      }
    }
    EXPECT_NE(got[2], model[2].base);
  }
}

TEST(Spectral, DogeSaysWhenNoMatrixTakesPart) {
  OutputTensor tensor;
  tensor.name = "model.layers.0.mlp.up_proj.weight";
  tensor.shape = {4, 4};
  tensor.models = 2;
  const auto prepare = [&](const ParameterMap& parameters) {
    return (*MakeMethod(SpecOf("doge", parameters, 2), {}))->Prepare({&tensor, 1});
  };
  const absl::Status status = prepare({});
  EXPECT_EQ(ReasonOf(status), Reason::kOutOfRange);
  EXPECT_NE(status.message().find("include"), std::string::npos) << status;
  EXPECT_TRUE(prepare({{"include", std::vector<std::string>{"proj"}}}).ok());
}

TEST(Spectral, KnotsThatKeepsAllIsTheMeanOfAgreeingTasks) {
  // One task alone: whatever the basis, nothing is lost.
  const MemoryModel model = RandomModel(1, 28);
  const Output got =
      RunMethod(SpecOf("knots", {{"density", 1.0}, {"lambda", 1.0}}, 1), {}, model, true);
  for (size_t t = 0; t < got.size(); ++t) {
    for (size_t i = 0; i < got[t].size(); ++i) {
      ASSERT_NEAR(got[t][i], model[t].base[i] + model[t].rows[0][i], 1e-12);
    }
  }
}

}  // namespace
}  // namespace orthomerge
