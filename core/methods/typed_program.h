// A program with the same code for both working dtypes: Derived has AccumulateAs<T>, SolveHeldAs<T>
// and EmitAs(region, solved, T* out), for one sink, as members that TypedProgram may call.
#pragma once

#include "core/methods/method.h"

namespace orthomerge {

template <class Derived>
class TypedProgram : public TensorProgram {
 public:
  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    if (region.f64) {
      self().template AccumulateAs<double>(round, region, solved, partial);
    } else {
      self().template AccumulateAs<float>(round, region, solved, partial);
    }
  }

  absl::StatusOr<std::vector<double>> SolveHeld(int round, const HeldTensor& tensor,
                                                const Solved&) const override {
    return tensor.f64() ? self().template SolveHeldAs<double>(round, tensor)
                        : self().template SolveHeldAs<float>(round, tensor);
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      self().EmitAs(region, solved, static_cast<double*>(sinks[0]));
    } else {
      self().EmitAs(region, solved, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

 protected:
  // For programs without rounds, and those that only count.
  template <class T>
  void AccumulateAs(int, const Region&, const Solved&, Accumulator&) const {}
  template <class T>
  absl::StatusOr<std::vector<double>> SolveHeldAs(int, const HeldTensor&) const {
    return std::vector<double>();
  }

 private:
  const Derived& self() const { return static_cast<const Derived&>(*this); }
};

}  // namespace orthomerge
