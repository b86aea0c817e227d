#include "core/methods/awd_solver.h"

#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using testing::DoubleNear;
using testing::Pointwise;

MATCHER_P(NearBy, tolerance, "") {
  return std::abs(std::get<0>(arg) - std::get<1>(arg)) <= tolerance;
}

// Three task vectors of four elements, small enough to check by hand.
const std::vector<double> kGram = {0.21, 0.01, -0.02, 0.01, 0.39, 0.07, -0.02, 0.07, 0.50};

std::vector<double> GramOf(const std::vector<std::vector<double>>& vectors) {
  std::vector<double> gram;
  for (const auto& a : vectors) {
    for (const auto& b : vectors) {
      double sum = 0;
      for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
      gram.push_back(sum);
    }
  }
  return gram;
}

// The iteration as the paper writes it, on the vectors themselves; returns delta.
std::vector<double> NaiveDelta(const std::vector<std::vector<double>>& taus,
                               const AwdParameters& parameters) {
  const size_t k = taus.size(), d = taus[0].size();
  std::vector<double> delta(d, 0.0);
  for (int64_t step = 0; step < parameters.iters; ++step) {
    std::vector<std::vector<double>> v = taus;
    for (auto& row : v) {
      for (size_t i = 0; i < d; ++i) row[i] -= delta[i];
    }
    const std::vector<double> gram = GramOf(v);
    std::vector<double> gradient(d, 0.0);
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) {
        if (i == j) continue;
        const double ni = std::sqrt(gram[i * k + i]), nj = std::sqrt(gram[j * k + j]);
        const double cosine = gram[i * k + j] / (ni * nj);
        const double sign = cosine > 0 ? 1 : cosine < 0 ? -1 : 0;
        // d|cos|/d delta for this ordered pair.
        for (size_t e = 0; e < d; ++e) {
          const double g = sign * (-(v[i][e] + v[j][e]) / (ni * nj) +
                                   cosine * (v[i][e] / (ni * ni) + v[j][e] / (nj * nj)));
          gradient[e] += g / static_cast<double>(k * (k - 1));
        }
      }
    }
    double norm = 0;
    for (const double x : delta) norm += x * x;
    norm = std::sqrt(norm);
    for (size_t e = 0; e < d; ++e) {
      if (norm > 1e-12) gradient[e] += parameters.alpha * delta[e] / norm;
      delta[e] -= parameters.beta * gradient[e];
    }
  }
  return delta;
}

TEST(AwdSolver, FirstStepsOfTheWorkedExample) {
  EXPECT_THAT(SolveAwd(kGram, 3, {0.1, 0.01, 1}).c,
              Pointwise(NearBy(5e-9), {-0.00017363, 0.01754260, -0.00420664}));
  EXPECT_THAT(SolveAwd(kGram, 3, {0.1, 0.01, 2}).c,
              Pointwise(NearBy(5e-9), {0.00029260, 0.03377873, -0.00774949}));
  EXPECT_THAT(SolveAwd(kGram, 3, {0.1, 0.01, 300}).c,
              Pointwise(NearBy(5e-9), {-0.13362080, 0.14276441, 0.04426226}));
}

TEST(AwdSolver, LossTraceOfTheWorkedExample) {
  const AwdSolution solution = SolveAwd(kGram, 3, {0.1, 0.01, 300}, /*keep_trace=*/true);
  EXPECT_THAT(solution.trace[0].orthogonality, DoubleNear(0.0850609842, 1e-9));
  EXPECT_THAT(solution.trace[1].orthogonality, DoubleNear(0.0731190293, 1e-9));
  EXPECT_THAT(solution.trace[3].norm, DoubleNear(0.0201928317, 1e-9));
  EXPECT_THAT(solution.last.orthogonality, DoubleNear(0.0290082080, 1e-9));
  EXPECT_THAT(solution.last.norm, DoubleNear(0.1158343485, 1e-9));
  EXPECT_THAT(solution.gradient_norm / 0.1, DoubleNear(10.883589321623258, 1e-9));
}

TEST(AwdSolver, EqualsTheIterationOnTheVectorsThemselves) {
  std::mt19937 generator(1);
  std::normal_distribution<double> normal;
  for (const size_t k : {2u, 3u, 5u, 8u}) {
    std::vector<std::vector<double>> taus(k, std::vector<double>(60));
    std::vector<double> shared(60);
    for (double& x : shared) x = normal(generator);
    for (auto& tau : taus) {
      for (size_t i = 0; i < tau.size(); ++i) tau[i] = 0.2 * normal(generator) + 0.15 * shared[i];
    }
    const AwdParameters parameters{0.05, 0.01, 50};
    const AwdSolution solution = SolveAwd(GramOf(taus), static_cast<int>(k), parameters);
    const std::vector<double> want = NaiveDelta(taus, parameters);
    for (size_t e = 0; e < want.size(); ++e) {
      double got = 0;
      for (size_t i = 0; i < k; ++i) got += solution.c[i] * taus[i][e];
      EXPECT_NEAR(got, want[e], 1e-11);
    }
  }
}

TEST(AwdSolver, OneModelChangesNothing) {
  const std::vector<double> gram = {4.0};
  EXPECT_EQ(SolveAwd(gram, 1, {}).c, std::vector<double>{0.0});
  EXPECT_EQ(MergeCoefficients({0.0}), std::vector<double>{1.0});
}

TEST(AwdSolver, IdenticalVectorsChangeNothing) {
  const std::vector<double> gram = {2, 2, 2, 2};
  for (const double c : SolveAwd(gram, 2, {}).c) EXPECT_NEAR(c, 0, 1e-12);
}

// Scalars, for instance: delta is 0, and rounding must not blow the coefficients up.
TEST(AwdSolver, VectorsAlongOneLineChangeNothing) {
  for (const int k : {2, 3, 5}) {
    std::vector<std::vector<double>> taus;
    for (int i = 0; i < k; ++i) taus.push_back({0.4 + 0.25 * i});
    for (const AwdParameters& parameters :
         {AwdParameters(), AwdParameters{0.6, 0.0003, 300}, AwdParameters{0.01, 0.1, 50}}) {
      const std::vector<double> c = SolveAwd(GramOf(taus), k, parameters).c;
      double delta = 0, largest = 0;
      for (int i = 0; i < k; ++i) {
        delta += c[i] * taus[i][0];
        largest = std::max(largest, std::abs(c[i]));
      }
      EXPECT_NEAR(delta, 0, 1e-10);
      EXPECT_LT(largest, 1000);  // 1e8 and more once
    }
  }
}

TEST(AwdSolver, AZeroVectorIsLeftOutOfAllPairs) {
  // Models 0 and 2 behave as if model 1 did not exist, but K stays 3.
  const std::vector<double> gram = {1, 0, 0.3, 0, 0, 0, 0.3, 0, 1};
  const AwdSolution with = SolveAwd(gram, 3, {0.0, 0.01, 1});
  const AwdSolution without = SolveAwd(std::vector<double>{1, 0.3, 0.3, 1}, 2, {0.0, 0.01, 1});
  // The objective averages over K(K-1) pairs: 6 instead of 2.
  EXPECT_NEAR(with.c[0], without.c[0] / 3, 1e-15);
  EXPECT_EQ(with.c[1], 0);
}

TEST(AwdSolver, ScalingTheVectorsIsScalingTheParameters) {
  std::vector<double> scaled = kGram;
  for (double& x : scaled) x *= 9;  // vectors times 3
  const std::vector<double> a = SolveAwd(scaled, 3, {0.1, 0.09, 200}).c;
  const std::vector<double> b = SolveAwd(kGram, 3, {0.3, 0.01, 200}).c;
  EXPECT_THAT(a, Pointwise(NearBy(1e-9), b));
}

TEST(AwdSolver, SaysWhenItDoesNothingOrIsUnstable) {
  std::vector<double> large = kGram, small = kGram;
  for (double& x : large) x *= 1e4;
  for (double& x : small) x *= 1e-4;
  const AwdParameters paper;
  const auto health = [&](const std::vector<double>& gram) {
    return CheckAwd(SolveAwd(gram, 3, paper), gram, 3, paper);
  };
  EXPECT_EQ(health(kGram), AwdHealth::kFine);
  EXPECT_EQ(health(large), AwdHealth::kNoOp);
  EXPECT_EQ(health(small), AwdHealth::kUnstable);
}

TEST(AwdSolver, CosinesAfterAreThoseOfTheDisentangledVectors) {
  const std::vector<double> c = {0.1, -0.2, 0.05};
  const std::vector<double> p = DisentangledGram(kGram, c);
  // <tau_0 - delta, tau_1 - delta> by hand.
  double q = 0, g0 = 0, g1 = 0;
  for (int i = 0; i < 3; ++i) {
    g0 += kGram[i] * c[i];
    g1 += kGram[3 + i] * c[i];
    for (int j = 0; j < 3; ++j) q += c[i] * c[j] * kGram[i * 3 + j];
  }
  EXPECT_NEAR(p[1], kGram[1] - g0 - g1 + q, 1e-15);
}

TEST(AwdSolver, TheTraceGoesFromTheFirstToTheLastStep) {
  for (const int64_t iters : {0, 1, 299, 300, 301, 599, 10'000}) {
    const AwdSolution solution = SolveAwd(kGram, 3, {0.1, 0.01, iters}, /*keep_trace=*/true);
    ASSERT_EQ(static_cast<int64_t>(solution.trace.size()), TracedSteps(iters)) << iters;
    EXPECT_EQ(TracedSteps(iters), std::min<int64_t>(iters + 1, 301));
    EXPECT_EQ(solution.trace.front().orthogonality, solution.first.orthogonality);
    EXPECT_EQ(solution.trace.back().orthogonality, solution.last.orthogonality);
    EXPECT_EQ(solution.trace.back().norm, solution.last.norm);
    EXPECT_EQ(TracedStep(0, iters), 0);
    EXPECT_EQ(TracedStep(TracedSteps(iters) - 1, iters), iters);
    for (int64_t n = 1; n < TracedSteps(iters); ++n) {
      EXPECT_LT(TracedStep(n - 1, iters), TracedStep(n, iters));
    }
    // Tracing changes nothing.
    EXPECT_EQ(solution.c, SolveAwd(kGram, 3, {0.1, 0.01, iters}).c);
  }
}

}  // namespace
}  // namespace orthomerge
