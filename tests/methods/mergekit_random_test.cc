// mergekit's random methods: statistics over elements, models, tensors and seeds.
#include <algorithm>
#include <cmath>
#include <random>

#include "core/math/random.h"
#include "gtest/gtest.h"
#include "tests/methods/mergekit_direct.h"

namespace orthomerge {
namespace {

using Vector = std::vector<double>;

struct RandomCase {
  std::string method;
  double density;
  double epsilon;  // 0: the method has none
};

MethodSpec SpecFor(const RandomCase& c, int k, uint64_t seed) {
  MergekitCase plain = {"", "mergekit." + c.method};
  plain.model_parameters = {{{"density", c.density}}};
  if (c.epsilon > 0) plain.model_parameters[0]["epsilon"] = c.epsilon;
  plain.parameters = {{"normalize", false}};
  MethodSpec spec = MergekitSpec(plain, k);
  spec.seed = seed;
  return spec;
}

// Entries of magnitude 1 to 2 on a base of 0, so that it is seen which ones stay.
MemoryModel RandomEntries(int k, unsigned seed) {
  MemoryModel model = RandomModel(k, seed);
  model.resize(2);
  model[1].shape = {40, 50};
  model[1].base.resize(2000);
  for (MemoryTensor& tensor : model) {
    tensor.base.assign(tensor.base.size(), 0.0);
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<float> uniform(1, 2);
    for (Vector& row : tensor.rows) {
      row.resize(tensor.base.size());
      for (double& x : row) x = (random() % 2 == 0 ? -1 : 1) * uniform(random);
    }
  }
  return model;
}

class MergekitRandomTest : public testing::TestWithParam<RandomCase> {
 protected:
  const RandomCase& c() const { return GetParam(); }
};

std::vector<bool> Kept(const Vector& out) {
  std::vector<bool> kept;
  for (const double x : out) kept.push_back(x != 0);
  return kept;
}

double Share(const std::vector<bool>& kept) {
  return static_cast<double>(std::count(kept.begin(), kept.end(), true)) /
         static_cast<double>(kept.size());
}

// Share of elements that are equal in two masks.
double Agreement(const std::vector<bool>& a, const std::vector<bool>& b) {
  size_t equal = 0;
  const size_t n = std::min(a.size(), b.size());
  for (size_t i = 0; i < n; ++i) equal += a[i] == b[i];
  return static_cast<double>(equal) / static_cast<double>(n);
}

TEST_P(MergekitRandomTest, KeepsTheDensityAndTheSumOfMagnitudes) {
  const MemoryModel model = RandomEntries(1, 40);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    for (const bool f64 : {false, true}) {
      const auto out = RunMethod(SpecFor(c(), 1, seed), {}, model, f64);
      for (size_t t = 0; t < model.size(); ++t) {
        const auto n = static_cast<double>(out[t].size());
        const std::vector<bool> kept = Kept(out[t]);
        EXPECT_NEAR(Share(kept), c().density, 5 * std::sqrt(c().density * (1 - c().density) / n));
        double before = 0, after = 0, ratio = 0;
        for (size_t i = 0; i < out[t].size(); ++i) {
          before += std::abs(model[t].rows[0][i]);
          after += std::abs(out[t][i]);
          if (!kept[i]) continue;
          const double factor = out[t][i] / model[t].rows[0][i];
          if (ratio == 0) ratio = factor;
          ASSERT_NEAR(factor, ratio, 1e-5) << "one factor for all";
        }
        EXPECT_NEAR(after / before, 1, 1e-6);
      }
    }
  }
}

TEST_P(MergekitRandomTest, MasksAreIndependent) {
  const MemoryModel model = RandomEntries(1, 41);
  const double expected = c().density * c().density + (1 - c().density) * (1 - c().density);
  const double tolerance = 5 * std::sqrt(expected * (1 - expected) / 2000.0) + 0.05;
  const auto first = RunMethod(SpecFor(c(), 1, 7), {}, model, false);
  const auto other_seed = RunMethod(SpecFor(c(), 1, 8), {}, model, false);
  EXPECT_NEAR(Agreement(Kept(first[0]), Kept(first[1])), expected, tolerance) << "tensors";
  EXPECT_NEAR(Agreement(Kept(first[0]), Kept(other_seed[0])), expected, tolerance) << "seeds";
  // The second of two models, the first of which is empty.
  MemoryModel second = RandomEntries(2, 41);
  for (size_t t = 0; t < second.size(); ++t) {
    second[t].rows = {Vector(model[t].rows[0].size(), 0.0), model[t].rows[0]};
  }
  const auto of_second = RunMethod(SpecFor(c(), 2, 7), {}, second, false);
  EXPECT_NEAR(Agreement(Kept(first[0]), Kept(of_second[0])), expected, tolerance) << "models";
}

TEST_P(MergekitRandomTest, TheSameForAnyRegionsAndDtypes) {
  const MemoryModel model = RandomEntries(3, 42);
  const MethodSpec spec = SpecFor(c(), 3, 9);
  for (const bool f64 : {false, true}) {
    const auto whole = RunMethod(spec, {}, model, f64);
    for (const int64_t block : {16, 48, 1024}) {
      EXPECT_EQ(RunMethod(spec, {}, model, f64, block), whole);
    }
  }
  const auto narrow = RunMethod(spec, {}, model, false), wide = RunMethod(spec, {}, model, true);
  for (size_t i = 0; i < wide[0].size(); ++i) ASSERT_NEAR(narrow[0][i], wide[0][i], 2e-5);
}

TEST_P(MergekitRandomTest, WithoutRescalingEntriesStayAsTheyAre) {
  const MemoryModel model = RandomEntries(1, 43);
  MethodSpec spec = SpecFor(c(), 1, 10);
  spec.parameters["rescale"] = false;
  const auto out = RunMethod(spec, {}, model, true);
  for (size_t i = 0; i < out[0].size(); ++i) {
    ASSERT_TRUE(out[0][i] == 0 || out[0][i] == model[0].rows[0][i]);
  }
}

// By fifths of a row in order of magnitude.
TEST_P(MergekitRandomTest, LargeEntriesStayMoreOften) {
  if (c().epsilon == 0) return;
  std::vector<double> kept(5, 0.0), all(5, 0.0);
  MemoryModel model = RandomEntries(1, 44);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto out = RunMethod(SpecFor(c(), 1, seed), {}, model, false);
    const Vector& row = model[1].rows[0];
    for (size_t first = 0; first < 2000; first += 50) {
      for (size_t i = first; i < first + 50; ++i) {
        size_t rank = 0;
        for (size_t j = first; j < first + 50; ++j) rank += std::abs(row[j]) < std::abs(row[i]);
        all[rank / 10] += 1;
        kept[rank / 10] += out[1][i] != 0;
      }
    }
  }
  for (size_t fifth = 0; fifth < 5; ++fifth) {
    const double middle = (10.0 * fifth + 4.5) / 49;  // mean of (rank - 1) / (n - 1)
    const double p = c().density - c().epsilon + 2 * c().epsilon * middle;
    EXPECT_NEAR(kept[fifth] / all[fifth], p, 5 * std::sqrt(p * (1 - p) / all[fifth])) << fifth;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Methods, MergekitRandomTest,
    testing::Values(RandomCase{"dare_linear", 0.6, 0}, RandomCase{"dare_ties", 0.25, 0},
                    RandomCase{"della", 0.5, 0.2}, RandomCase{"della_linear", 0.3, 0.1}),
    [](const testing::TestParamInfo<RandomCase>& info) { return info.param.method; });

// By the definition: entry of rank r stays with probability density - epsilon + 2 epsilon r / (n -
// 1), of equal ones the lower index is the smaller; a negative epsilon keeps the smaller ones.
TEST(MergekitDella, EveryEntryByItsRank) {
  for (const double epsilon : {0.2, -0.2}) {
    for (const int n : {2, 30, 60, 500}) {
      MemoryTensor tensor;
      tensor.name = "row";
      tensor.shape = {1, n};
      Vector row;
      for (int i = 0; i < n; ++i) row.push_back(i % 3 == 0 ? 2.0 : 1.0);  // many are equal
      tensor.rows = {row};
      tensor.base.assign(row.size(), 0.0);
      for (uint64_t seed = 0; seed < 20; ++seed) {
        MethodSpec spec = SpecFor({"della_linear", 0.5, 0.2}, 1, seed);
        spec.model_parameters[0]["epsilon"] = epsilon;
        const auto out = RunMethod(spec, {}, {tensor}, false);
        std::vector<uint32_t> bits(row.size());
        RandomStream(seed, "row", 0).Bits(0, n, bits.data());
        for (int i = 0; i < n; ++i) {
          int rank = 0;
          for (int j = 0; j < n; ++j) rank += row[j] < row[i] || (row[j] == row[i] && j < i);
          const double p = 0.5 - epsilon + 2 * epsilon * rank / (n - 1);
          EXPECT_EQ(out[0][i] != 0, bits[i] * 0x1p-32 < p) << epsilon << ", " << i << " of " << n;
        }
      }
    }
  }
}

// Ranks of a tensor of rank 3 are taken along its second axis, as in mergekit; those of one element
// mean the density itself.
TEST(MergekitDella, RanksAlongTheSecondAxis) {
  MemoryTensor tensor;
  tensor.name = "conv";
  tensor.shape = {2, 500, 3};
  Vector row;
  for (int i = 0; i < 3000; ++i) row.push_back(1.0 + (i / 3) % 500);  // grows along the axis
  tensor.rows = {row};
  tensor.base.assign(3000, 0.0);
  double low = 0, high = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto out =
        RunMethod(SpecFor({"della_linear", 0.5, 0.45}, 1, seed), {}, {tensor}, false)[0];
    for (size_t i = 0; i < out.size(); ++i) {
      if (i / 3 % 500 < 100) low += out[i] != 0;
      if (i / 3 % 500 >= 400) high += out[i] != 0;
    }
  }
  EXPECT_NEAR(low / 6000, 0.05 + 0.9 * 49.5 / 499, 0.03);
  EXPECT_NEAR(high / 6000, 0.95 - 0.9 * 49.5 / 499, 0.03);
}

TEST(MergekitDella, ALoneElementStaysWithTheDensity) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}, {1, 1}}) {
    MemoryTensor tensor;
    tensor.name = "scale";
    tensor.shape = shape;
    tensor.rows = {{2.0}};
    tensor.base = {1.0};
    int kept = 0;
    for (uint64_t seed = 0; seed < 1000; ++seed) {
      const double out =
          RunMethod(SpecFor({"della", 0.3, 0.2}, 1, seed), {}, {tensor}, false)[0][0];
      EXPECT_TRUE(out == 1.0 || out == 3.0);
      kept += out == 3.0;
    }
    EXPECT_NEAR(kept, 300, 75);
  }
}

}  // namespace
}  // namespace orthomerge
