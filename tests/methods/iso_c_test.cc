// Iso-C needs the module for dense linear algebra beside the test binary.
#include <cmath>

#include "gtest/gtest.h"
#include "tests/methods/programs.h"

namespace orthomerge {
namespace {

// Rows (or columns, whichever are fewer) of `matrix` are orthogonal and of one length.
void ExpectOneSingularValue(const std::vector<double>& matrix, int64_t m, int64_t n, double value) {
  const bool wide = m <= n;
  const int64_t count = std::min(m, n), length = std::max(m, n);
  const auto at = [&](int64_t i, int64_t e) { return matrix[wide ? i * n + e : e * n + i]; };
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < count; ++j) {
      double dot = 0;
      for (int64_t e = 0; e < length; ++e) dot += at(i, e) * at(j, e);
      EXPECT_NEAR(dot, i == j ? value * value : 0, 1e-9) << i << " " << j;
    }
  }
}

TEST(IsoC, AllSingularValuesBecomeEqual) {
  const MemoryModel model = RandomModel(3, 1);
  const auto merged = RunMethod(SpecOf("iso_c", {{"lambda", 1.0}}, 3), {}, model, true);
  for (size_t t = 0; t < model.size(); ++t) {
    std::vector<double> task = merged[t], sum(task.size(), 0.0);
    for (size_t i = 0; i < task.size(); ++i) task[i] -= model[t].base[i];
    for (const auto& row : model[t].rows) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += row[i];
    }
    if (model[t].shape.size() != 2) {  // the mean
      for (size_t i = 0; i < task.size(); ++i) EXPECT_NEAR(task[i], sum[i] / 3, 1e-12);
      continue;
    }
    const int64_t m = model[t].shape[0], n = model[t].shape[1];
    double squares = 0, along = 0;
    for (size_t i = 0; i < task.size(); ++i) {
      squares += task[i] * task[i];
      along += task[i] * sum[i];
    }
    const auto rank = static_cast<double>(std::min(m, n));
    const double value = std::sqrt(squares / rank);
    ExpectOneSingularValue(task, m, n, value);
    // <mean(s) U V^T, U diag(s) V^T> = mean(s) * sum(s): the directions are those of the sum.
    EXPECT_NEAR(along, value * value * rank, 1e-9);
  }
}

TEST(IsoC, AMatrixOfOneSingularValueStays) {
  MemoryModel model = RandomModel(1, 2);
  model.resize(1);
  MemoryTensor& tensor = model[0];
  tensor.shape = {4, 4};
  tensor.base.assign(16, 0.5);
  tensor.rows = {{0, 2, 0, 0, -2, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0}};
  const auto merged = RunMethod(SpecOf("iso_c", {{"lambda", 0.5}}, 1), {}, model, true);
  for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(merged[0][i], 0.5 + 0.5 * tensor.rows[0][i], 1e-12);
}

TEST(IsoC, NoTaskVectorIsTheBase) {
  MemoryModel model = RandomModel(2, 3);
  for (MemoryTensor& tensor : model) {
    for (auto& row : tensor.rows) std::fill(row.begin(), row.end(), 0.0);
  }
  const auto merged = RunMethod(SpecOf("iso_c", {}, 2), {}, model, false);
  for (size_t t = 0; t < model.size(); ++t) EXPECT_EQ(merged[t], model[t].base);
}

}  // namespace
}  // namespace orthomerge
