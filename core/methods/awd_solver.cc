#include "core/methods/awd_solver.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace orthomerge {
namespace {

constexpr double kRounding = 1e-13;  // of a sum of cancelling terms
constexpr double kTinyNorm = 1e-12;

double Sign(double x) { return x > 0 ? 1.0 : (x < 0 ? -1.0 : 0.0); }

// State of one evaluation at delta = sum c tau.
struct Evaluation {
  std::vector<double> g;  // G c
  double q = 0;           // ||delta||^2
  std::vector<double> n;  // norms of v_i = tau_i - delta; 0: left out
  std::vector<double> p;  // <v_i, v_j>
  AwdLoss loss;
};

class Iteration {
 public:
  Iteration(absl::Span<const double> gram, int k) : gram_(gram), k_(k), used_(k) {
    for (int i = 0; i < k; ++i) used_[i] = std::sqrt(gram[i * k + i]) > kTinyNorm;
  }

  Evaluation Evaluate(const std::vector<double>& c) const {
    Evaluation e;
    e.g.assign(k_, 0);
    double terms = 0;
    for (int i = 0; i < k_; ++i) {
      for (int j = 0; j < k_; ++j) {
        e.g[i] += gram_[i * k_ + j] * c[j];
        terms += std::abs(c[i] * gram_[i * k_ + j] * c[j]);
      }
      e.q += c[i] * e.g[i];
    }
    // What is left of task vectors along one line is rounding, and its direction means nothing.
    if (e.q <= kRounding * terms) e.q = 0;
    e.n.assign(k_, 0);
    e.p.assign(static_cast<size_t>(k_) * k_, 0);
    for (int i = 0; i < k_; ++i) {
      for (int j = 0; j < k_; ++j) {
        e.p[i * k_ + j] = gram_[i * k_ + j] - e.g[i] - e.g[j] + e.q;
      }
      const double square = e.p[i * k_ + i];
      if (used_[i] && square > 0 && std::sqrt(square) > kTinyNorm) e.n[i] = std::sqrt(square);
    }
    e.loss.norm = std::sqrt(std::max(e.q, 0.0));
    if (k_ > 1) {
      double sum = 0;
      for (int i = 0; i < k_; ++i) {
        for (int j = 0; j < k_; ++j) {
          if (i != j && e.n[i] > 0 && e.n[j] > 0) {
            sum += std::abs(e.p[i * k_ + j] / (e.n[i] * e.n[j]));
          }
        }
      }
      e.loss.orthogonality = sum / (static_cast<double>(k_) * (k_ - 1));
    }
    return e;
  }

  // grad L_O = sum_i w_i v_i.
  std::vector<double> Weights(const Evaluation& e) const {
    std::vector<double> w(k_, 0);
    if (k_ < 2) return w;
    const double scale = 2.0 / (static_cast<double>(k_) * (k_ - 1));
    for (int i = 0; i < k_; ++i) {
      if (e.n[i] == 0) continue;
      double sum = 0;
      for (int j = 0; j < k_; ++j) {
        if (j == i || e.n[j] == 0) continue;
        const double product = e.p[i * k_ + j];
        const double cosine = product / (e.n[i] * e.n[j]);
        sum += Sign(product) * (-1.0 / (e.n[i] * e.n[j]) + cosine / (e.n[i] * e.n[i]));
      }
      w[i] = scale * sum;
    }
    return w;
  }

  double GradientNorm(const Evaluation& e, const std::vector<double>& w) const {
    double square = 0;
    for (int i = 0; i < k_; ++i) {
      for (int j = 0; j < k_; ++j) square += w[i] * w[j] * e.p[i * k_ + j];
    }
    return std::sqrt(std::max(square, 0.0));
  }

 private:
  absl::Span<const double> gram_;
  const int k_;
  std::vector<char> used_;
};

}  // namespace

AwdSolution SolveAwd(absl::Span<const double> gram, int k, const AwdParameters& parameters,
                     bool keep_trace) {
  const Iteration iteration(gram, k);
  AwdSolution solution;
  solution.c.assign(k, 0);
  Evaluation e = iteration.Evaluate(solution.c);
  solution.first = e.loss;
  solution.gradient_norm = iteration.GradientNorm(e, iteration.Weights(e));
  int64_t traced = 0, next_traced = keep_trace ? 0 : -1;
  const auto trace = [&](int64_t step) {
    if (step != next_traced) return;
    solution.trace.push_back(e.loss);
    next_traced = TracedStep(++traced, parameters.iters);
  };
  for (int64_t step = 0; step < parameters.iters; ++step) {
    trace(step);
    const std::vector<double> w = iteration.Weights(e);
    const double total = std::accumulate(w.begin(), w.end(), 0.0);
    const double norm = e.q > 0 ? std::sqrt(e.q) : 0;
    for (int i = 0; i < k; ++i) {
      double gradient = w[i] - total * solution.c[i];
      if (norm > kTinyNorm) gradient += parameters.alpha * solution.c[i] / norm;
      solution.c[i] -= parameters.beta * gradient;
    }
    e = iteration.Evaluate(solution.c);
  }
  trace(parameters.iters);
  solution.last = e.loss;
  return solution;
}

int64_t TracedSteps(int64_t iters) { return std::min(iters + 1, kMaxTrace); }

int64_t TracedStep(int64_t n, int64_t iters) {
  if (iters < kMaxTrace) return n;
  return static_cast<int64_t>(std::llround(static_cast<double>(n) * static_cast<double>(iters) /
                                           static_cast<double>(kMaxTrace - 1)));
}

std::vector<double> MergeCoefficients(const std::vector<double>& c) {
  std::vector<double> coefficients;
  for (const double x : c) coefficients.push_back(1.0 - static_cast<double>(c.size()) * x);
  return coefficients;
}

std::vector<double> DisentangledGram(absl::Span<const double> gram, const std::vector<double>& c) {
  return Iteration(gram, static_cast<int>(c.size())).Evaluate(c).p;
}

std::vector<double> Norms(absl::Span<const double> gram, int k) {
  std::vector<double> norms;
  for (int i = 0; i < k; ++i) norms.push_back(std::sqrt(std::max(gram[i * k + i], 0.0)));
  return norms;
}

double Mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

AwdHealth CheckAwd(const AwdSolution& solution, absl::Span<const double> gram, int k,
                   const AwdParameters& parameters) {
  if (k < 2 || parameters.iters == 0 || solution.gradient_norm < 1e-9) return AwdHealth::kFine;
  if (solution.gradient_norm < parameters.alpha) return AwdHealth::kNoOp;
  // One step moves c by about (2/K) beta / n^2; beyond a few hundredths it overshoots the kinks of
  // |cos| instead of settling between them.
  const double n = Mean(Norms(gram, k));
  const double step = 2.0 / k * parameters.beta / (n * n);
  const bool worse = !(solution.last.orthogonality <= solution.first.orthogonality);
  return step > 0.03 || worse ? AwdHealth::kUnstable : AwdHealth::kFine;
}

}  // namespace orthomerge
