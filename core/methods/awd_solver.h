// The optimisation of Adaptive Weight Disentanglement in the span of the task vectors.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace orthomerge {

struct AwdParameters {
  double alpha = 0.1;
  double beta = 0.01;
  int64_t iters = 300;
};

// L_O and L_R of the paper's objective L = L_O + alpha L_R, before a step.
struct AwdLoss {
  double orthogonality = 0;  // mean |cos| over pairs
  double norm = 0;           // ||delta||
};

struct AwdSolution {
  std::vector<double> c;       // delta = sum_k c[k] tau_k
  double gradient_norm = 0;    // g0 = ||grad L_O(0)||
  AwdLoss first, last;         // before the first step, after the last
  std::vector<AwdLoss> trace;  // at TracedStep(0 ... iters); filled on request
};

// The loss is traced at no more than this many steps, from the first to the last.
constexpr int64_t kMaxTrace = 301;

// How many steps of 0 ... `iters` are traced, and which one is the n-th of them. Step s is the
// state after s updates.
int64_t TracedSteps(int64_t iters);
int64_t TracedStep(int64_t n, int64_t iters);

// Gradient descent with constant step from delta = 0, exactly `iters` steps, on the K x K Gram
// matrix G (row-major, G[i*k+j] = <tau_i, tau_j>): the d-dimensional iteration of arXiv 2411.18729
// (Algorithm 1, Eq. 9-11), exact because every iterate stays in the span of the task vectors.
// sign(0) = 0; task vectors of zero norm are left out of all pairs but count in K; the norm term is
// left out while ||delta|| <= 1e-12.
AwdSolution SolveAwd(absl::Span<const double> gram, int k, const AwdParameters& parameters,
                     bool keep_trace = false);

// Merge coefficients 1 - K c[k]: sum_i (tau_i - delta) = sum_k coefficient[k] tau_k.
std::vector<double> MergeCoefficients(const std::vector<double>& c);

// Gram matrix of the vectors tau_i - delta.
std::vector<double> DisentangledGram(absl::Span<const double> gram, const std::vector<double>& c);

// sqrt of the diagonal.
std::vector<double> Norms(absl::Span<const double> gram, int k);
double Mean(const std::vector<double>& values);

// What is wrong with running these parameters on this Gram matrix, if anything.
enum class AwdHealth { kFine, kNoOp, kUnstable };
AwdHealth CheckAwd(const AwdSolution& solution, absl::Span<const double> gram, int k,
                   const AwdParameters& parameters);

}  // namespace orthomerge
