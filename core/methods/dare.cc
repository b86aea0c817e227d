// DARE (arXiv 2311.03099): every entry of every task vector is kept with probability `density` and
// then divided by it, else dropped; theta = theta_0 + lambda * sum of what is left. As a transform
// it hands these task vectors on. What is kept is a function of seed, tensor, model and element.
#include <algorithm>
#include <cmath>

#include "core/math/per_cpu.h"
#include "core/math/random.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

struct Drop {
  double density = 1;
  uint64_t seed = 0;

  // Replaces the region's task vectors; elements that do not count are left alone.
  void Apply(const std::string& tensor, const Region& region) const {
    if (region.f64) {
      ApplyAs<double>(tensor, region);
    } else {
      ApplyAs<float>(tensor, region);
    }
  }

 private:
  template <class T>
  ORTHOMERGE_PER_CPU void ApplyAs(const std::string& tensor, const Region& region) const {
    constexpr int64_t kBlock = 512;
    const uint32_t last = RandomStream::LastOf(density);
    const double divisor = density;
    const auto rescaled = [=](T x, bool kept) {
      const auto quotient = static_cast<T>(x / divisor);
      return kept ? quotient : T{0};
    };
    uint32_t bits[kBlock];
    for (size_t k = 0; k < region.rows.size(); ++k) {
      const RandomStream random(seed, tensor, static_cast<int>(k));
      for (int64_t first = 0; first < region.elements; first += kBlock) {
        const int64_t count = std::min(kBlock, region.elements - first);
        T* row = region.row_as<T>(k) + first;
        random.Bits(region.offset + first, count, bits);
        if (region.counts == nullptr) {
          for (int64_t i = 0; i < count; ++i) row[i] = rescaled(row[i], bits[i] <= last);
        } else {
          for (int64_t i = 0; i < count; ++i) {
            const T x = rescaled(row[i], bits[i] <= last);
            row[i] = region.counts[first + i] != 0 ? x : row[i];
          }
        }
      }
    }
  }
};

class DareProgram : public TensorProgram {
 public:
  DareProgram(std::string tensor, const Drop& drop, double lambda)
      : tensor_(std::move(tensor)), drop_(drop), lambda_(lambda) {}

  absl::Status Emit(const Region& region, const Solved&,
                    absl::Span<void* const> sinks) const override {
    drop_.Apply(tensor_, region);
    WeightedSum(region, std::vector<double>(region.rows.size(), lambda_), /*add_base=*/true,
                sinks[0]);
    return absl::OkStatus();
  }

  std::string description() const override { return "entries dropped at random, others rescaled"; }

 private:
  const std::string tensor_;
  const Drop drop_;
  const double lambda_;
};

class Dare : public Method {
 public:
  explicit Dare(const MethodSpec& spec)
      : parameters_(spec.parameters),
        drop_{NumberOf(parameters_, "density"), spec.seed},
        lambda_(NumberOf(parameters_, "lambda")) {}

  bool wants_task_vectors() const override { return true; }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    return std::make_unique<DareProgram>(tensor.name, drop_, lambda_);
  }

  absl::Status CheckTransform() const override { return absl::OkStatus(); }

  void Map(const OutputTensor& tensor, const Region& region, const Solved&) const override {
    if (!IsExcluded(parameters_, tensor.name)) drop_.Apply(tensor.name, region);
  }

 private:
  const ParameterMap parameters_;
  const Drop drop_;
  const double lambda_;
};

}  // namespace

std::unique_ptr<Method> MakeDare(const MethodSpec& spec) { return std::make_unique<Dare>(spec); }

}  // namespace orthomerge
