#include "core/methods/linear.h"

#include <numeric>

namespace orthomerge {

std::vector<double> LinearCoefficients(const MethodSpec& spec) {
  std::vector<double> c = spec.weights;
  if (spec.name == "average") {
    const double sum = std::accumulate(c.begin(), c.end(), 0.0);
    for (double& weight : c) weight /= sum;
    return c;
  }
  if (spec.name != "task_arithmetic") return {};
  // Weights are in the rows already.
  const double lambda = NumberOf(spec.parameters, "lambda");
  const std::string op = TextOf(spec.parameters, "op");
  c.assign(c.size(), op == "negate" ? -lambda : lambda);
  if (op == "analogy") c[0] = -lambda;
  return c;
}

}  // namespace orthomerge
