// mergekit's deterministic methods: against direct implementations, and by the examples that were
// computed by hand.
#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/methods/mergekit_direct.h"

namespace orthomerge {
namespace {

using Vector = std::vector<double>;
using testing::HasSubstr;

// Rows of `model` become what the method takes.
MemoryModel For(const MergekitCase& c, MemoryModel model) {
  for (MemoryTensor& tensor : model) {
    if (!c.needs_base || c.rows_are_models) {
      for (Vector& row : tensor.rows) {
        for (size_t i = 0; i < row.size(); ++i) {
          row[i] = static_cast<float>(row[i] + tensor.base[i]);
        }
      }
    }
    if (!c.needs_base) tensor.base.clear();
  }
  return model;
}

std::vector<Vector> RunCase(const MergekitCase& c, const MemoryModel& model, bool f64,
                            int64_t block = 0) {
  return RunMethod(MergekitSpec(c, static_cast<int>(model[0].rows.size())), {}, model, f64, block);
}

void ExpectNear(const Vector& got, const Vector& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], tolerance * std::max(1.0, std::abs(want[i])))
        << what << ", element " << i;
  }
}

const ParameterMap kNormal = {{"normalize", true}};
const std::vector<ParameterMap> kWeights = {
    {{"weight", 0.5}}, {{"weight", 0.3}}, {{"weight", 1.2}}};

std::vector<ParameterMap> Each(const ParameterMap& more) {
  std::vector<ParameterMap> all = kWeights;
  for (ParameterMap& one : all) one.insert(more.begin(), more.end());
  return all;
}

// Different for every model; the last one keeps all.
std::vector<ParameterMap> Densities(const ParameterMap& more = {}) {
  std::vector<ParameterMap> all = Each(more);
  all[0]["density"] = 0.2;
  all[1]["density"] = 0.7;
  all[2]["density"] = 1.0;
  return all;
}

std::vector<MergekitCase> Cases() {
  const ParameterMap slices = {{"nuslerp_flatten", false}};
  const ParameterMap columns = {{"nuslerp_flatten", false}, {"nuslerp_row_wise", true}};
  const ParameterMap both = {{"normalize", true}, {"lambda", 0.6}};
  return {
      {"linear", "mergekit.linear", {}, kWeights, false},
      {"linear_sum", "mergekit.linear", {{"normalize", false}}, kWeights, false},
      {"task_arithmetic", "mergekit.task_arithmetic", both, kWeights},
      {"ties", "mergekit.ties", {}, Densities()},
      {"ties_rescaled", "mergekit.ties", {{"rescale", true}, {"lambda", 0.7}}, Densities()},
      {"ties_sum", "mergekit.ties", {{"normalize", false}}, Each({{"density", 0.4}})},
      {"ties_all", "mergekit.ties", {}, kWeights},
      {"ties_none", "mergekit.ties", {}, Each({{"density", 0.0}})},
      {"ties_one_entry", "mergekit.ties", {}, Each({{"density", 1e-9}})},
      {"breadcrumbs", "mergekit.breadcrumbs", {}, Densities({{"gamma", 0.05}})},
      {"breadcrumbs_normal", "mergekit.breadcrumbs", both, Densities()},
      {"breadcrumbs_crowded", "mergekit.breadcrumbs", {}, Each({{"density", 0.9}, {"gamma", 0.4}})},
      {"breadcrumbs_ties", "mergekit.breadcrumbs_ties", kNormal, Densities({{"gamma", 0.1}})},
      {"dare_dense", "mergekit.dare_ties", {}, kWeights},
      {"dare_linear_dense", "mergekit.dare_linear", {}, kWeights},
      {"della_dense", "mergekit.della", {}, kWeights},
      {"della_linear_none", "mergekit.della_linear", {}, Each({{"density", 0.0}})},
      {"slerp", "mergekit.slerp", {{"t", 0.35}}, {}, true, true, 1, 1},
      {"slerp_base", "mergekit.slerp", {{"t", 0.0}}, {}, true, true, 1, 1},
      {"nuslerp", "mergekit.nuslerp", {}, kWeights, false, false, 2, 2},
      {"nuslerp_base", "mergekit.nuslerp", {}, kWeights, true, false, 2, 2},
      {"nuslerp_rows", "mergekit.nuslerp", slices, kWeights, false, false, 2, 2},
      {"nuslerp_columns", "mergekit.nuslerp", columns, kWeights, true, false, 2, 2},
      {"nuslerp_half",
       "mergekit.nuslerp",
       {},
       {{{"weight", 1.0}}, {{"weight", -1.0}}},
       false,
       false,
       2,
       2},
      {"multislerp", "mergekit.multislerp", {}, kWeights, false},
      {"multislerp_base", "mergekit.multislerp", {{"normalize_weights", false}}, kWeights},
      {"karcher", "mergekit.karcher", {}, {}, false},
      {"karcher_steps", "mergekit.karcher", {{"max_iter", int64_t{2}}}, {}, false},
      {"model_stock", "mergekit.model_stock", {}, {}, true, false, 2},
      {"model_stock_rows", "mergekit.model_stock", {{"filter_wise", true}}, {}, true, false, 2},
      {"sce", "mergekit.sce", {}, {}},
      {"sce_some", "mergekit.sce", {{"select_topk", 0.3}}, {}},
      {"sce_none", "mergekit.sce", {{"select_topk", 0.0}}, {}},
      {"ram", "mergekit.ram", {{"epsilon", 0.1}}, {}},
      {"ramplus_tl", "mergekit.ramplus_tl", {{"epsilon", 0.15}}, {}},
      {"nearswap", "mergekit.nearswap", {{"t", 0.05}}, {}, true, true, 1, 1},
      {"arcee_fusion", "mergekit.arcee_fusion", {}, {}, true, true, 1, 1},
  };
}

class MergekitTest : public testing::TestWithParam<MergekitCase> {
 protected:
  const MergekitCase& c() const { return GetParam(); }
  // Numbers of models that the method takes, of 1, 2, 3 and 5.
  std::vector<int> ModelCounts() const {
    std::vector<int> counts;
    for (const int k : {1, 2, 3, 5}) {
      if (k >= c().min_models && k <= c().max_models) counts.push_back(k);
    }
    return counts;
  }
  void ExpectDirect(const MemoryModel& model, const std::string& what) const {
    for (const bool f64 : {false, true}) {
      const std::vector<Vector> got = RunCase(c(), model, f64);
      for (size_t t = 0; t < model.size(); ++t) {
        ExpectNear(got[t], DirectMergekit(c(), model[t], f64), f64 ? 1e-9 : 2e-5,
                   what + ", " + model[t].name);
      }
    }
  }
};

TEST_P(MergekitTest, IsTheFormula) {
  for (const int k : ModelCounts()) {
    ExpectDirect(For(c(), RandomModel(k, 20 + k)), std::to_string(k) + " models");
  }
}

TEST_P(MergekitTest, IsTheFormulaOfTensorsOfAnyRank) {
  MemoryModel model = RandomModel(c().max_models == 1 ? 1 : 2, 31);
  model.resize(2);
  model[0].shape = {1};
  model[1].shape = {5, 3, 14};  // 210 of 211 elements
  for (MemoryTensor& tensor : model) {
    const size_t elements = tensor.shape[0] == 1 ? 1 : 210;
    tensor.base.resize(elements);
    for (Vector& row : tensor.rows) row.resize(elements);
  }
  ExpectDirect(For(c(), model), "ranks");
}

// Many equal magnitudes and zeros: the lowest index wins.
TEST_P(MergekitTest, IsTheFormulaWhereNumbersAreEqual) {
  const int k = c().max_models == 1 ? 1 : (c().max_models == 2 ? 2 : 3);
  MemoryModel model = RandomModel(k, 32);
  for (MemoryTensor& tensor : model) {
    for (Vector& row : tensor.rows) {
      for (double& x : row) x = std::round(x * 20) / 16;
    }
    for (double& x : tensor.base) x = std::round(x * 4) / 4;
  }
  if (c().method == "mergekit.model_stock" || c().method == "mergekit.nuslerp") {
    model.pop_back();  // the cosine of two scalars is 1 or -1 up to its last bit
  }
  ExpectDirect(For(c(), model), "equal numbers");
}

TEST_P(MergekitTest, RegionsDoNotMatter) {
  const int k = std::min(c().max_models, 3);
  const MemoryModel model = For(c(), RandomModel(k, 33));
  for (const bool f64 : {false, true}) {
    const std::vector<Vector> whole = RunCase(c(), model, f64);
    for (const int64_t block : {16, 48, 1024}) {
      EXPECT_EQ(RunCase(c(), model, f64, block), whole) << block;
    }
  }
}

// What is not finite stays so, and nothing else becomes it.
TEST_P(MergekitTest, CarriesNonFiniteElements) {
  const int k = std::min(c().max_models, 3);
  MemoryModel model = For(c(), RandomModel(k, 34));
  model.resize(2);
  const double inf = std::numeric_limits<double>::infinity();
  for (size_t t = 0; t < model.size(); ++t) {
    model[t].rows[0][5] = inf;
    model[t].rows.back()[20] = std::nan("");
    if (!model[t].base.empty()) model[t].base[100] = -inf;
  }
  for (const bool f64 : {false, true}) {
    const std::vector<Vector> got = RunCase(c(), model, f64, 48);
    for (size_t t = 0; t < model.size(); ++t) {
      for (size_t i = 0; i < got[t].size(); ++i) {
        bool finite = model[t].base.empty() || std::isfinite(model[t].base[i]);
        for (const Vector& row : model[t].rows) finite = finite && std::isfinite(row[i]);
        // A method that keeps the base does not look at the models.
        if (!finite && c().name == "sce_none") continue;
        ASSERT_EQ(std::isfinite(got[t][i]), finite) << model[t].name << ", element " << i;
      }
    }
    EXPECT_EQ(RunCase(c(), model, f64, 1024).size(), got.size());
  }
}

TEST_P(MergekitTest, TakesTheParametersOfTheTensor) {
  const int k = std::min(c().max_models, 3);
  const MemoryModel plain = For(c(), RandomModel(k, 35));
  MemoryModel resolved = plain;
  const MethodSpec spec = MergekitSpec(c(), k);
  for (MemoryTensor& tensor : resolved) {
    tensor.parameters = spec.parameters;
    tensor.parameters.insert({"something", 1.0});
    tensor.model_parameters = spec.model_parameters;
  }
  MergekitCase other = c();  // what the recipe says at the top does not matter then
  other.parameters = {{"t", 0.9}, {"lambda", 3.0}};
  other.model_parameters = {{{"weight", 7.0}}};
  for (const bool f64 : {false, true}) {
    EXPECT_EQ(RunCase(other, resolved, f64), RunCase(c(), plain, f64));
  }
}

TEST_P(MergekitTest, EmptyTaskVectorsAreTheBase) {
  if (!c().needs_base) return;
  MemoryModel model = RandomModel(std::min(c().max_models, 3), 36);
  std::vector<Vector> bases;
  for (MemoryTensor& tensor : model) {
    for (Vector& row : tensor.rows) row.assign(row.size(), 0.0);
    bases.push_back(tensor.base);
  }
  const std::vector<Vector> got = RunCase(c(), For(c(), model), true);
  for (size_t t = 0; t < bases.size(); ++t) ExpectNear(got[t], bases[t], 1e-15, "base");
}

INSTANTIATE_TEST_SUITE_P(Methods, MergekitTest, testing::ValuesIn(Cases()),
                         [](const testing::TestParamInfo<MergekitCase>& info) {
                           return info.param.name;
                         });

// The fixture of the worked examples: three task vectors of four elements.
const Vector kBase = {1, -2, 0.5, 3};
const std::vector<Vector> kTaus = {
    {0.4, -0.2, 0.1, 0}, {0.3, 0.5, -0.1, 0.2}, {-0.1, 0.2, 0.6, 0.3}};
const std::vector<ParameterMap> kExampleWeights = {
    {{"weight", 1.0}}, {{"weight", 0.5}}, {{"weight", 0.25}}};

std::vector<Vector> Models() {
  std::vector<Vector> models;
  for (const Vector& tau : kTaus) {
    models.push_back(kBase);
    for (size_t i = 0; i < 4; ++i) models.back()[i] += tau[i];
  }
  return models;
}

void ExpectExample(const std::string& method, const ParameterMap& parameters, MemoryTensor tensor,
                   const Vector& want, const std::vector<ParameterMap>& models = kExampleWeights) {
  tensor.name = "x";
  if (tensor.shape.empty()) tensor.shape = {4};
  const MergekitCase c = {"", "mergekit." + method, parameters, models};
  ExpectNear(RunCase(c, {tensor}, true)[0], want, 2e-8, method);
  ExpectNear(RunCase(c, {tensor}, false)[0], want, 1e-6, method);
}

MemoryTensor Tensor(Vector base, std::vector<Vector> rows, std::vector<int64_t> shape = {}) {
  return {"x", std::move(shape), std::move(base), std::move(rows)};
}

TEST(MergekitExamples, Sums) {
  const MemoryTensor taus = Tensor(kBase, kTaus), models = Tensor({}, Models());
  ExpectExample("linear", {}, models, {1.3, -1.94285714, 0.61428571, 3.1});
  ExpectExample("linear", {{"normalize", false}}, models, {2.275, -3.4, 1.075, 5.425});
  ExpectExample("task_arithmetic", {}, taus, {1.525, -1.9, 0.7, 3.175});
  ExpectExample("task_arithmetic", {{"normalize", true}}, taus,
                {1.3, -1.94285714, 0.61428571, 3.1});
  ExpectExample("task_arithmetic", {{"lambda", 0.5}}, taus, {1.2625, -1.95, 0.6, 3.0875});
}

TEST(MergekitExamples, Sparse) {
  const MemoryTensor taus = Tensor(kBase, kTaus);
  std::vector<ParameterMap> half = kExampleWeights;
  for (ParameterMap& model : half) model["density"] = 0.5;
  ExpectExample("ties", {}, taus, {1.36666667, -1.5, 1.1, 3.3}, half);
  ExpectExample("ties", {{"normalize", false}}, taus, {1.55, -1.75, 0.65, 3.075}, half);
  for (ParameterMap& model : half) model["gamma"] = 0.25;
  ExpectExample("breadcrumbs", {}, taus, {1.15, -2.15, 0.6, 3.175}, half);
  ExpectExample("breadcrumbs_ties", {}, taus, {1.15, -2.2, 0.6, 3.175}, half);
}

TEST(MergekitExamples, Spherical) {
  const std::vector<Vector> x = Models();
  const std::vector<ParameterMap> share = {{{"weight", 0.7}}, {{"weight", 0.3}}};
  const Vector between = {1.37495030, -1.99692034, 0.54187298, 3.07126310};
  ExpectExample("slerp", {{"t", 0.3}}, Tensor(x[0], {x[1]}), between);
  ExpectExample("nuslerp", {}, Tensor({}, {x[0], x[1]}), between, share);
  ExpectExample("nuslerp", {}, Tensor(kBase, {kTaus[0], kTaus[1]}),
                {1.48553722, -1.95358672, 0.54352764, 3.08897904}, share);
  const MemoryTensor matrix = Tensor({}, {{1, 2, 0.5, -1}, {2, 1, -1, -1}}, {2, 2});
  ExpectExample("nuslerp", {}, matrix, {1.40954970, 1.81919973, 0.03817507, -1.07624981}, share);
  ExpectExample("nuslerp", {{"nuslerp_flatten", false}}, matrix,
                {1.36513049, 1.77099372, 0.01850085, -1.19441474}, share);
  ExpectExample("nuslerp", {{"nuslerp_flatten", false}, {"nuslerp_row_wise", true}}, matrix,
                {1.44212950, 1.71720365, 0.03452898, -1.01098463}, share);
  ExpectExample("multislerp", {}, Tensor({}, x), {1.30833755, -1.94763363, 0.61452724, 3.12167190});
  ExpectExample("multislerp", {}, Tensor(kBase, kTaus),
                {1.50093312, -1.98391965, 0.66281749, 3.12373057});
  ExpectExample("karcher", {}, Tensor({}, x), {1.21141824, -1.84106591, 0.69958224, 3.19241495});
  ExpectExample("karcher", {}, Tensor({}, kTaus), {0.40376985, 0.20552874, 0.30198680, 0.24390345});
}

TEST(MergekitExamples, Selecting) {
  const MemoryTensor taus = Tensor(kBase, kTaus);
  ExpectExample("model_stock", {}, taus, {1.02422082, -1.97981599, 0.52422082, 3.02018401});
  ExpectExample("model_stock", {{"filter_wise", true}}, Tensor(kBase, kTaus, {2, 2}),
                {0.95742266, -2.03548112, 0.56890055, 3.05741712});
  ExpectExample("sce", {}, taus, {1.335, -1.66853933, 0.95211268, 3.25617978});
  ExpectExample("sce", {{"select_topk", 0.5}}, taus, {1, -1.68181818, 1.04444444, 3});
  const MemoryTensor gaps =
      Tensor(kBase, {{0.4, 0, 0.1, 0}, {0, 0.5, -0.1, 0}, {0, 0.2, 0.6, 0.3}});
  ExpectExample("ram", {}, gaps, {1.4, -1.65, 0.7, 3.3});
  ExpectExample("ramplus_tl", {}, gaps, {1.408, -1.65, 0.7, 3.306});
  ExpectExample("nearswap", {{"t", 0.1}}, Tensor(kBase, {Models()[0]}), {1.1, -2.1, 0.6, 3.0});
  ExpectExample(
      "arcee_fusion", {},
      Tensor({1, -2, 0.5, 3, 0, 1, -1, 0.5}, {{1.1, -2, 0.45, 3.02, 0.05, 0.9, -0.98, 2}}, {2, 4}),
      {1, -2, 0.5, 3, 0, 0.9, -1, 2});
}

// Of sums of weights that vanish, vectors that point against each other, and the like.
TEST(MergekitEdges, OppositeAndEmptyVectors) {
  const Vector a = {1, 2, -0.5}, none = {0, 0, 0};
  Vector back = a;
  for (double& x : back) x = -x;
  const std::vector<ParameterMap> even = {{{"weight", 1.0}}, {{"weight", 1.0}}};
  const auto run = [&](const std::string& method, const ParameterMap& parameters,
                       const Vector& base, const std::vector<Vector>& rows) {
    const MergekitCase c = {"", "mergekit." + method, parameters, even};
    return RunCase(c, {Tensor(base, rows, {3})}, true)[0];
  };
  EXPECT_EQ(run("slerp", {{"t", 0.25}}, a, {back}), (Vector{0.5, 1, -0.25}));
  EXPECT_EQ(run("slerp", {{"t", 0.25}}, a, {a}), a);
  EXPECT_EQ(run("nuslerp", {}, {}, {a, back}), none);
  EXPECT_EQ(run("nuslerp", {}, {}, {a, a}), a);
  EXPECT_EQ(run("multislerp", {}, {}, {a, back}), none);
  EXPECT_EQ(run("multislerp", {}, a, {none, none}), a);
  EXPECT_EQ(run("multislerp", {}, a, {none, none, none}), a);
  ExpectNear(run("karcher", {}, {}, {a, back}), a, 1e-15, "karcher");
  ExpectNear(run("karcher", {}, {}, {a, none}), {0.5, 1, -0.25}, 1e-15, "karcher");
  EXPECT_EQ(run("karcher", {}, {}, {none, none}), none);
  EXPECT_EQ(run("model_stock", {}, a, {a, back}), a);  // the ratio has no value: the base
  EXPECT_EQ(run("model_stock", {{"filter_wise", true}}, a, {none, none}), a);
}

// Steps and tangents of length 0, which no threshold keeps from being divided by.
TEST(MergekitEdges, NoThresholdIsNeeded) {
  const Vector a = {3, 4, 0}, back = {-3, -4, 0};
  const std::vector<ParameterMap> even = {{{"weight", 1.0}}, {{"weight", 1.0}}};
  const auto run = [&](const std::string& method, const ParameterMap& parameters,
                       const std::vector<Vector>& rows) {
    const MergekitCase c = {"", "mergekit." + method, parameters, even};
    return RunCase(c, {Tensor({}, rows, {3})}, true)[0];
  };
  EXPECT_EQ(run("multislerp", {{"eps", 0.0}}, {a, a}), a);
  ExpectNear(run("karcher", {{"tol", 0.0}}, {a, a}), a, 1e-15, "equal");
  ExpectNear(run("karcher", {{"tol", 0.0}}, {a, back}), a, 1e-15, "opposite");
}

TEST(MergekitEdges, AloneTensorsAreKept) {
  const Vector a = {1, 2, -0.5};
  const std::vector<std::string> with_one = {"slerp", "nuslerp", "karcher", "arcee_fusion",
                                             "multislerp"};
  for (const std::string& name : with_one) {
    MethodSpec spec = SpecOf("mergekit." + name, {{"t", 0.5}}, 1);
    EXPECT_EQ(RunMethod(spec, {}, {Tensor({}, {a}, {3})}, false)[0], a) << name;
  }
  for (const MergekitCase& c : Cases()) {
    if (!c.needs_base) continue;
    MethodSpec spec = SpecOf(c.method, c.parameters, 0);
    EXPECT_EQ(RunMethod(spec, {}, {Tensor(a, {}, {3})}, false)[0], a) << c.name;
  }
}

absl::Status Fault(const std::string& method, const ParameterMap& parameters, int models,
                   bool has_base, const ParameterMap& of_models = {}) {
  const MergekitCase c = {"", "mergekit." + method, parameters, {of_models}};
  const auto made = MakeMethod(MergekitSpec(c, models), {});
  OutputTensor tensor;
  tensor.name = "model.norm";
  tensor.shape = {3};
  tensor.models = models;
  tensor.has_base = has_base;
  return (*made)->Compile(tensor).status();
}

void ExpectFault(const absl::Status& status, Reason reason, const std::string& text) {
  EXPECT_EQ(ReasonOf(status), reason) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor model.norm: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

TEST(MergekitEdges, FaultsNameTheTensor) {
  const ParameterMap zero = {{"weight", 0.0}};
  ExpectFault(Fault("linear", {}, 2, false, zero), Reason::kOutOfRange, "normalize: false");
  ExpectFault(Fault("multislerp", {}, 2, false, zero), Reason::kOutOfRange, "normalize_weights");
  for (const char* method : {"della", "della_linear"}) {
    ExpectFault(Fault(method, {}, 2, true, {{"density", 0.9}}), Reason::kOutOfRange,
                "density 0.9 and epsilon 0.15 of model 1");
    ExpectFault(Fault(method, {}, 2, true, {{"density", 0.1}, {"epsilon", 0.1}}),
                Reason::kOutOfRange, "must lie between 0 and 1");
    ExpectFault(Fault(method, {}, 2, true, {{"density", 0.5}, {"epsilon", -0.6}}),
                Reason::kOutOfRange, "density 0.5 and epsilon -0.6 of model 1");
    ExpectFault(Fault(method, {}, 2, true, {{"density", 0.25}, {"epsilon", -0.25}}),
                Reason::kOutOfRange, "density 0.25 and epsilon -0.25 of model 1");
    EXPECT_TRUE(Fault(method, {}, 2, true, {{"density", 0.5}, {"epsilon", -0.4}}).ok());
    EXPECT_TRUE(Fault(method, {}, 2, true, {{"density", 0.5}}).ok());
  }
  ExpectFault(Fault("slerp", {{"t", 0.5}}, 2, true), Reason::kTooManyModels, "found 2");
  ExpectFault(Fault("nuslerp", {}, 3, true), Reason::kTooManyModels, "found 3");
  ExpectFault(Fault("nuslerp", {}, 1, true), Reason::kTooFewModels, "found 1");
  ExpectFault(Fault("model_stock", {}, 1, true), Reason::kTooFewModels, "found 1");
  ExpectFault(Fault("arcee_fusion", {}, 2, true), Reason::kTooManyModels, "found 2");
  for (const char* method : {"ties", "sce", "ram", "model_stock", "task_arithmetic"}) {
    ExpectFault(Fault(method, {}, 2, false), Reason::kTensorMissing, "the base does not have it");
  }
  ExpectFault(Fault("nearswap", {{"t", 0.5}}, 1, false), Reason::kTensorMissing, "the base");
}

TEST(MergekitEdges, PassthroughScales) {
  const Vector a = {1, 2, -0.5};
  MethodSpec spec = SpecOf("mergekit.passthrough", {}, 1);
  MemoryTensor tensor = Tensor({}, {a}, {3});
  EXPECT_EQ(RunMethod(spec, {}, {tensor}, false)[0], a);
  spec.model_parameters[0]["scale"] = 0.5;
  EXPECT_EQ(RunMethod(spec, {}, {tensor}, false)[0], (Vector{0.5, 1, -0.25}));
  tensor.parameters = {{"resolved", 1.0}};
  tensor.model_parameters = {{{"scale", 2.0}}};
  EXPECT_EQ(RunMethod(spec, {}, {tensor}, false)[0], (Vector{2, 4, -1}));
  tensor.model_parameters = {{{"weight", 2.0}}};
  EXPECT_EQ(RunMethod(spec, {}, {tensor}, false)[0], a);
}

}  // namespace
}  // namespace orthomerge
