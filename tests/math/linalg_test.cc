// Dense linear algebra needs its module beside the test binary.
#include "core/math/linalg.h"

#include <cmath>
#include <random>
#include <thread>
#include <tuple>

#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using Matrix = std::vector<double>;  // row-major

// Every operation by the CPU's own steps and by the general ones, which other devices use.
class Linalg : public testing::TestWithParam<bool> {
 protected:
  static const DenseAlgebra& Algebra(bool general) {
    const auto algebra = general ? LoadGeneralAlgebra() : LoadDenseAlgebra();
    EXPECT_TRUE(algebra.ok()) << algebra.status();
    return **algebra;
  }
  static const DenseAlgebra& Algebra() { return Algebra(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(, Linalg, testing::Bool(),
                         [](const auto& info) { return info.param ? "general" : "cpu"; });

TaskMatrices TasksOf(int64_t m, int64_t n, std::vector<void*>* rows, std::vector<Matrix>* tasks) {
  rows->clear();
  for (Matrix& task : *tasks) rows->push_back(task.data());
  TaskMatrices matrices;
  matrices.f64 = true;
  matrices.m = m;
  matrices.n = n;
  matrices.rows = *rows;
  return matrices;
}

// Columns that are orthonormal, m x r: Gram-Schmidt, twice, on random ones.
Matrix Orthonormal(int64_t m, int64_t r, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Matrix columns(static_cast<size_t>(m * r));
  for (double& x : columns) x = normal(random);
  for (int64_t j = 0; j < r; ++j) {
    for (int64_t i = 0; i < 2 * j; ++i) {
      double dot = 0;
      for (int64_t e = 0; e < m; ++e) dot += columns[e * r + j] * columns[e * r + i % j];
      for (int64_t e = 0; e < m; ++e) columns[e * r + j] -= dot * columns[e * r + i % j];
    }
    double squares = 0;
    for (int64_t e = 0; e < m; ++e) squares += columns[e * r + j] * columns[e * r + j];
    for (int64_t e = 0; e < m; ++e) columns[e * r + j] /= std::sqrt(squares);
  }
  return columns;
}

// u diag(s) v^T.
Matrix Compose(int64_t m, int64_t n, const Matrix& u, const std::vector<double>& s,
               const Matrix& v) {
  const auto r = static_cast<int64_t>(s.size());
  Matrix product(static_cast<size_t>(m * n), 0.0);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t k = 0; k < r; ++k) {
      for (int64_t j = 0; j < n; ++j) product[i * n + j] += u[i * r + k] * s[k] * v[j * r + k];
    }
  }
  return product;
}

double Distance(const Matrix& a, const Matrix& b) {
  double difference = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    squares += b[i] * b[i];
  }
  return std::sqrt(difference / squares);
}

// Singular values between 1 and 1 / condition, evenly spread in their logarithms.
std::vector<double> Spread(int64_t r, double condition) {
  std::vector<double> s;
  for (int64_t i = 0; i < r; ++i) {
    s.push_back(std::pow(condition, -static_cast<double>(i) / static_cast<double>(r - 1)));
  }
  return s;
}

TEST_P(Linalg, IsoCIsExactAsFarAsTheConditionAllows) {
  for (const auto& [m, n] : {std::pair{60, 60}, {90, 50}, {50, 90}, {700, 530}}) {
    const int64_t r = std::min(m, n);
    const Matrix u = Orthonormal(m, r, 1), v = Orthonormal(n, r, 2);
    for (const double condition : {1.0, 1e2, 1e4, 1e6, 1e8, 1e11}) {
      const std::vector<double> s = Spread(r, condition);
      double mean = 0;
      for (const double x : s) mean += x / static_cast<double>(r);
      std::vector<Matrix> task = {Compose(m, n, u, s, v)};
      const Matrix want = Compose(m, n, u, std::vector<double>(r, mean), v);
      std::vector<void*> rows;
      Matrix got(want.size());
      ASSERT_TRUE(Algebra().IsoC(TasksOf(m, n, &rows, &task), got.data()).ok());
      EXPECT_LT(Distance(got, want), 1e-11 + 1e-15 * condition)
          << m << "x" << n << " " << condition;
      if (r > 500) break;
    }
  }
}

TEST_P(Linalg, IsoCIsExactWhereFewSingularValuesAreSmall) {
  // The factor of a square matrix feels only sums of two of them.
  for (const auto& [m, n, few] : {std::tuple{60, 60, std::vector<double>{4e-4, 2e-4, 1e-4}},
                                  {90, 50, {4e-4, 2e-4, 1e-4}},
                                  {50, 90, {4e-4, 2e-4, 1e-4}},
                                  {60, 60, {1e-7}}}) {
    const int64_t r = std::min(m, n);
    std::vector<double> s = few;
    while (static_cast<int64_t>(s.size()) < r)
      s.push_back(1 - 0.01 * static_cast<double>(s.size()));
    double mean = 0;
    for (const double x : s) mean += x / static_cast<double>(r);
    const Matrix u = Orthonormal(m, r, 3), v = Orthonormal(n, r, 4);
    std::vector<Matrix> task = {Compose(m, n, u, s, v)};
    std::vector<void*> rows;
    Matrix got(static_cast<size_t>(m * n));
    ASSERT_TRUE(Algebra().IsoC(TasksOf(m, n, &rows, &task), got.data()).ok());
    const Matrix want = Compose(m, n, u, std::vector<double>(r, mean), v);
    // The general steps end with one of third order, good for 3e-12.
    EXPECT_LT(Distance(got, want), GetParam() ? 3e-12 : 2e-12)
        << m << "x" << n << " " << few.size();
  }
}

// Leading k singular triplets, by what Align gives of one matrix.
struct Decomposed {
  Matrix u, v;  // columns: m x k, n x k
  double sum = 0;
};
Decomposed Decompose(const DenseAlgebra& algebra, int64_t m, int64_t n, const Matrix& matrix,
                     int64_t k) {
  std::vector<Matrix> task = {matrix};
  task[0].resize(static_cast<size_t>(std::max(m, n) * n));
  std::vector<void*> rows;
  Matrix basis(static_cast<size_t>(m * m));
  const auto rank = algebra.Align(TasksOf(m, n, &rows, &task), 1e-9, basis.data());
  EXPECT_TRUE(rank.ok() && *rank >= k) << rank.status();
  Decomposed result;
  result.u.resize(static_cast<size_t>(m * k));
  result.v.resize(static_cast<size_t>(n * k));
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i < m; ++i) result.u[i * k + j] = basis[i * *rank + j];
    double squares = 0;
    for (int64_t e = 0; e < n; ++e) squares += task[0][j * n + e] * task[0][j * n + e];
    for (int64_t e = 0; e < n; ++e) result.v[e * k + j] = task[0][j * n + e] / std::sqrt(squares);
    result.sum += std::sqrt(squares);
  }
  return result;
}

// Appends the columns of b, n x k, to a.
void Append(int64_t n, const Matrix& b, Matrix* a) {
  const auto before = static_cast<int64_t>(a->size()) / n;
  const auto k = static_cast<int64_t>(b.size()) / n;
  Matrix both;
  for (int64_t i = 0; i < n; ++i) {
    both.insert(both.end(), a->begin() + i * before, a->begin() + (i + 1) * before);
    both.insert(both.end(), b.begin() + i * k, b.begin() + (i + 1) * k);
  }
  *a = std::move(both);
}

Matrix PolarFactor(const DenseAlgebra& algebra, int64_t m, int64_t n, const Matrix& matrix) {
  std::vector<Matrix> task = {matrix};
  std::vector<void*> rows;
  Matrix factor(matrix.size());
  EXPECT_TRUE(algebra.IsoC(TasksOf(m, n, &rows, &task), factor.data()).ok());
  double squares = 0;
  for (const double x : factor) squares += x * x;
  for (double& x : factor) x *= std::sqrt(static_cast<double>(std::min(m, n)) / squares);
  return factor;
}

TEST_P(Linalg, IsoCtsIsMadeOfCommonAndOwnDirections) {
  for (const auto& [m, n, common] : {std::tuple{30, 50, 24}, {50, 30, 24}, {30, 30, 10}}) {
    const int64_t r = std::min(m, n), own = (r - common) / 2;
    std::vector<Matrix> tasks;
    for (unsigned i = 0; i < 2; ++i) {
      tasks.push_back(Compose(m, n, Orthonormal(m, r, 40 + i), Spread(r, 20 + 10 * i),
                              Orthonormal(n, r, 50 + i)));
    }
    const std::vector<Matrix> before = tasks;
    Matrix sum(tasks[0].size());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] = tasks[0][i] + tasks[1][i];
    Decomposed all = Decompose(Algebra(), m, n, sum, common);
    const Matrix left = all.u;
    double values = all.sum;
    for (const Matrix& task : tasks) {
      Matrix rest = task;
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t c = 0; c < common; ++c) {
          double along = 0;
          for (int64_t i = 0; i < m; ++i) along += left[i * common + c] * task[i * n + j];
          for (int64_t i = 0; i < m; ++i) rest[i * n + j] -= along * left[i * common + c];
        }
      }
      const Decomposed part = Decompose(Algebra(), m, n, rest, own);
      values += part.sum;
      Append(m, part.u, &all.u);
      Append(n, part.v, &all.v);
    }
    const Matrix want = Compose(m, n, PolarFactor(Algebra(), m, r, all.u),
                                std::vector<double>(r, values / static_cast<double>(r)),
                                PolarFactor(Algebra(), n, r, all.v));
    std::vector<void*> rows;
    Matrix got(want.size());
    ASSERT_TRUE(Algebra().IsoCts(TasksOf(m, n, &rows, &tasks), {common, own}, got.data()).ok());
    EXPECT_LT(Distance(got, want), 1e-11) << m << "x" << n;
    EXPECT_EQ(tasks, before);
  }
}

TEST_P(Linalg, IsoCtsOfTasksWithNothingOfTheirOwn) {
  for (const auto& [m, n] : {std::pair{12, 15}, {15, 12}}) {
    Matrix u(static_cast<size_t>(2 * m), 0.0), v(static_cast<size_t>(2 * n), 0.0);
    u[0] = u[3] = v[0] = v[3] = 1;  // axes, so that nothing but 0 is left
    std::vector<Matrix> tasks = {Compose(m, n, u, {2, 0}, v), Compose(m, n, u, {0, 1}, v)};
    std::vector<void*> rows;
    Matrix got(static_cast<size_t>(m * n));
    ASSERT_TRUE(Algebra().IsoCts(TasksOf(m, n, &rows, &tasks), {10, 1}, got.data()).ok());
    EXPECT_LT(Distance(got, Compose(m, n, u, {3.0 / 12, 3.0 / 12}, v)), 1e-13) << m << "x" << n;
  }
}

TEST_P(Linalg, DogeFollowsItsGradient) {
  // Without a shared space: rows are independent, and longer than what is summed at once.
  const int64_t m = 3, n = 37;
  std::vector<Matrix> tasks;
  for (unsigned i = 0; i < 2; ++i) {
    tasks.push_back(
        Compose(m, n, Orthonormal(m, m, 60 + i), {2, 1, 0.5}, Orthonormal(n, m, 70 + i)));
  }
  DogeProblem doge;
  doge.factors = {0.3, 0.4};
  doge.descent = {1e-3, 12};
  std::vector<void*> rows;
  Matrix got(static_cast<size_t>(m * n)), want(got.size(), 0.0), first = want, second = want;
  ASSERT_TRUE(Algebra().Doge(TasksOf(m, n, &rows, &tasks), doge, got.data()).ok());
  const double scale = 0.7;
  for (int step = 1; step <= 12; ++step) {
    for (int64_t p = 0; p < m; ++p) {
      Matrix gradient(n, 0.0);
      for (const Matrix& task : tasks) {
        double along = 0;
        for (int64_t e = p * n; e < (p + 1) * n; ++e) {
          const double merged = 0.3 * tasks[0][e] + 0.4 * tasks[1][e];
          along += task[e] * (task[e] - merged - scale * want[e]);
        }
        for (int64_t e = 0; e < n; ++e) gradient[e] -= 2 * scale * along * task[p * n + e];
      }
      for (int64_t e = 0; e < n; ++e) {
        double &a = first[p * n + e], &b = second[p * n + e];
        a = 0.9 * a + 0.1 * gradient[e];
        b = 0.999 * b + 0.001 * gradient[e] * gradient[e];
        want[p * n + e] -= 1e-3 * (a / (1 - std::pow(0.9, step))) /
                           (std::sqrt(b / (1 - std::pow(0.999, step))) + 1e-8);
      }
    }
  }
  EXPECT_LT(Distance(got, want), 1e-9);
}

TEST_P(Linalg, ASumWithoutFullRankIsCompleted) {
  const int64_t m = 20, n = 12;
  std::vector<double> s(n, 0.0);
  for (int i = 0; i < 5; ++i) s[i] = 1 + i;
  std::vector<Matrix> task = {Compose(m, n, Orthonormal(m, n, 3), s, Orthonormal(n, n, 4))};
  std::vector<void*> rows;
  Matrix got(static_cast<size_t>(m * n));
  ASSERT_TRUE(Algebra().IsoC(TasksOf(m, n, &rows, &task), got.data()).ok());
  // All columns orthogonal, of the length of the mean over all 12 singular values.
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; b < n; ++b) {
      double dot = 0;
      for (int64_t e = 0; e < m; ++e) dot += got[e * n + a] * got[e * n + b];
      EXPECT_NEAR(dot, a == b ? 15.0 / 12 * 15 / 12 : 0, 1e-12);
    }
  }
}

TEST_P(Linalg, OrthogonalTasksKeepTheirLeadingTriplets) {
  // Tasks in orthogonal spaces of two directions each, and less of a third that must go.
  const int64_t m = 40, n = 30;
  const Matrix u = Orthonormal(m, 9, 5), v = Orthonormal(n, 9, 6);
  std::vector<Matrix> tasks;
  std::vector<double> kept(9, 0.0);
  for (int i = 0; i < 3; ++i) {
    std::vector<double> s(9, 0.0);
    s[3 * i] = kept[3 * i] = 2.0 + i;
    s[3 * i + 1] = kept[3 * i + 1] = 1.0 + i;
    s[3 * i + 2] = 0.5;
    tasks.push_back(Compose(m, n, u, s, v));
  }
  std::vector<void*> rows;
  Matrix got(static_cast<size_t>(m * n));
  ASSERT_TRUE(Algebra().TsvM(TasksOf(m, n, &rows, &tasks), 2, got.data()).ok());
  EXPECT_LT(Distance(got, Compose(m, n, u, kept, v)), 1e-13);
  // More triplets than there are singular values: those of value 0 have no direction.
  ASSERT_TRUE(Algebra().TsvM(TasksOf(m, n, &rows, &tasks), 5, got.data()).ok());
  Matrix sum(got.size(), 0.0);
  for (const Matrix& task : tasks) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += task[i];
  }
  EXPECT_LT(Distance(got, sum), 1e-12);
}

TEST_P(Linalg, AlignGivesCoordinatesInACommonBasis) {
  for (const auto& [m, n] : {std::pair{30, 50}, {50, 20}, {80, 10}}) {
    std::vector<Matrix> tasks;
    for (unsigned i = 0; i < 3; ++i) {
      const std::vector<double> s = {3.0, 2.0, 1.0, 1e-7};
      tasks.push_back(Compose(m, n, Orthonormal(m, 4, 10 + i), s, Orthonormal(n, 4, 20 + i)));
    }
    const std::vector<Matrix> before = tasks;
    std::vector<void*> rows;
    Matrix basis(static_cast<size_t>(m * m));
    const auto rank = Algebra().Align(TasksOf(m, n, &rows, &tasks), 1e-5, basis.data());
    ASSERT_TRUE(rank.ok()) << rank.status();
    ASSERT_EQ(*rank, 9);
    for (size_t i = 0; i < tasks.size(); ++i) {
      Matrix back(before[i].size());
      ASSERT_TRUE(Algebra().Multiply(basis.data(), tasks[i].data(), m, *rank, n, back.data()).ok());
      EXPECT_LT(Distance(back, before[i]), 1e-7);
    }
  }
}

TEST_P(Linalg, ThreadsDoNotChangeABit) {
  const int64_t m = 70, n = 90;
  const auto tasks = [&] {
    return std::vector<Matrix>{
        Compose(m, n, Orthonormal(m, m, 30), Spread(m, 50), Orthonormal(n, m, 31)),
        Compose(m, n, Orthonormal(m, m, 32), Spread(m, 20), Orthonormal(n, m, 33))};
  };
  const auto run = [&](Matrix* results) {
    std::vector<Matrix> own = tasks();
    std::vector<void*> rows;
    const TaskMatrices matrices = TasksOf(m, n, &rows, &own);
    Matrix out(static_cast<size_t>(m * n));
    const auto keep = [&](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      results->insert(results->end(), out.begin(), out.end());
    };
    DogeProblem doge;
    doge.factors = {0.02, 0.03};
    doge.task_rank = 35;
    doge.shared_rank = 11;
    doge.descent = {1e-4, 20};
    keep(Algebra().IsoC(matrices, out.data()));
    keep(Algebra().IsoCts(matrices, {56, 7}, out.data()));
    keep(Algebra().TsvM(matrices, 35, out.data()));
    keep(Algebra().Wudi(matrices, {1e-5, 20}, out.data()));
    keep(Algebra().Doge(matrices, doge, out.data()));
  };
  Matrix alone, first, second;
  run(&alone);
  std::thread other([&] { run(&second); });
  run(&first);
  other.join();
  EXPECT_EQ(alone, first);
  EXPECT_EQ(alone, second);
}

// What all operations make of two task matrices, one after the other.
struct Results {
  Matrix iso_c, iso_cts, tsv_m, wudi, doge, coordinates, factors;
};
Results ResultsOf(const DenseAlgebra& algebra, int64_t m, int64_t n, std::vector<Matrix> tasks) {
  const int64_t r = std::min(m, n);
  std::vector<void*> rows;
  const TaskMatrices matrices = TasksOf(m, n, &rows, &tasks);
  const auto filled = [&](int64_t elements, const auto& operation) {
    Matrix out(static_cast<size_t>(elements));
    const absl::Status status = operation(out.data());
    EXPECT_TRUE(status.ok()) << status;
    return out;
  };
  DogeProblem doge;
  doge.factors = {0.02, 0.03};
  doge.task_rank = r / 2;
  doge.shared_rank = r / 6;
  doge.descent = {1e-4, 20};
  TaskMatrices first = matrices;
  first.rows = matrices.rows.subspan(0, 1);
  Results results;
  results.iso_c = filled(m * n, [&](double* out) { return algebra.IsoC(matrices, out); });
  results.iso_cts = filled(m * n, [&](double* out) {
    return algebra.IsoCts(matrices, {r - 2 * (r / 10), r / 10}, out);
  });
  results.tsv_m = filled(m * n, [&](double* out) { return algebra.TsvM(matrices, r / 2, out); });
  results.wudi =
      filled(m * n, [&](double* out) { return algebra.Wudi(matrices, {1e-5, 20}, out); });
  results.doge = filled(m * n, [&](double* out) { return algebra.Doge(matrices, doge, out); });
  results.factors =
      filled(r / 3 * (m + n), [&](double* out) { return algebra.Truncate(first, r / 3, out); });
  filled(m * m, [&](double* out) { return algebra.Align(matrices, 0, out).status(); });
  for (const Matrix& task : tasks) {
    results.coordinates.insert(results.coordinates.end(), task.begin(), task.end());
  }
  return results;
}

std::vector<Matrix> TwoTasks(int64_t m, int64_t n) {
  const int64_t r = std::min(m, n);
  return {Compose(m, n, Orthonormal(m, r, 80), Spread(r, 50), Orthonormal(n, r, 81)),
          Compose(m, n, Orthonormal(m, r, 82), Spread(r, 20), Orthonormal(n, r, 83))};
}

TEST_F(Linalg, TheGeneralStepsAgreeWithThoseOfTheCpu) {
  for (const auto& [m, n] : {std::pair{70, 90}, {90, 70}}) {
    const std::vector<Matrix> tasks = TwoTasks(m, n);
    const Results own = ResultsOf(Algebra(false), m, n, tasks);
    const Results general = ResultsOf(Algebra(true), m, n, tasks);
    EXPECT_LT(Distance(general.iso_c, own.iso_c), 1e-11);
    EXPECT_LT(Distance(general.iso_cts, own.iso_cts), 1e-11);
    EXPECT_LT(Distance(general.tsv_m, own.tsv_m), 1e-11);
    EXPECT_LT(Distance(general.wudi, own.wudi), 1e-11);
    EXPECT_LT(Distance(general.doge, own.doge), 1e-11);
    EXPECT_LT(Distance(general.coordinates, own.coordinates), 1e-9);
    EXPECT_LT(Distance(general.factors, own.factors), 1e-9);
  }
}

TEST_F(Linalg, TheClassTellsWhatFindsEigenvectors) {
  const std::string own = Algebra(false).numerics_class();
  EXPECT_THAT(own, testing::AnyOf(testing::EndsWith("/dsytrd"), testing::EndsWith("/eigh")));
  EXPECT_NE(own, Algebra(true).numerics_class());
}

// Squares of the entries are beyond what float64 holds, or have few digits.
TEST_P(Linalg, MatricesOfAnyMagnitude) {
  const auto times = [](Matrix matrix, double factor) {
    for (double& x : matrix) x *= factor;
    return matrix;
  };
  for (const auto& [m, n] : {std::pair{60, 70}, {70, 60}}) {
    const std::vector<Matrix> tasks = TwoTasks(m, n);
    const Results want = ResultsOf(Algebra(), m, n, tasks);
    for (const int exponent : {-900, -520, 520, 900}) {
      const double scale = std::ldexp(1, exponent);
      const std::vector<Matrix> scaled = {times(tasks[0], scale), times(tasks[1], scale)};
      const auto near = [&](const Matrix& got, const Matrix& expected, double power) {
        return Distance(times(got, std::pow(scale, -power)), expected) < 1e-11;
      };
      const Results got = ResultsOf(Algebra(), m, n, scaled);
      EXPECT_TRUE(near(got.iso_c, want.iso_c, 1)) << exponent;
      EXPECT_TRUE(near(got.iso_cts, want.iso_cts, 1)) << exponent;
      EXPECT_TRUE(near(got.tsv_m, want.tsv_m, 1)) << exponent;
      EXPECT_TRUE(near(got.coordinates, want.coordinates, 1)) << exponent;
      EXPECT_TRUE(near(got.factors, want.factors, 0.5)) << exponent;
    }
    // One task alone, whose singular vectors count as much as the other's.
    const auto uneven = [&](int exponent) {
      return ResultsOf(Algebra(), m, n, {tasks[0], times(tasks[1], std::ldexp(1, exponent))});
    };
    const Results got = uneven(-520), limit = uneven(-60);
    EXPECT_LT(Distance(got.iso_cts, limit.iso_cts), 1e-11);
    EXPECT_LT(Distance(got.tsv_m, limit.tsv_m), 1e-11);
    EXPECT_LT(Distance(got.wudi, limit.wudi), 1e-11);
  }
}

TEST_P(Linalg, WhatIsLargerThanLapackCanTellIsRefused) {
  // Tasks of one column, all the same one: the rank is the number of tasks or of rows.
  for (const auto& [m, count] : {std::pair{65536, 65536}, {24577, 24576}}) {
    Matrix column(static_cast<size_t>(m), 1.0), basis(1);
    const std::vector<void*> rows(static_cast<size_t>(count), column.data());
    TaskMatrices tasks;
    tasks.f64 = true;
    tasks.m = m;
    tasks.n = 1;
    tasks.rows = rows;
    const absl::Status status = Algebra().Align(tasks, 0, basis.data()).status();
    EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("LAPACK's 32-bit sizes"));
  }
}

}  // namespace
}  // namespace orthomerge
