// Runs a method over models in memory as the engine would: rounds over leaves, then emit.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/methods/method.h"

namespace orthomerge {

struct MemoryTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<double> base;               // empty: no base
  std::vector<std::vector<double>> rows;  // task vectors, or models where the method takes those
  ParameterMap parameters = {};           // as in OutputTensor
  std::vector<ParameterMap> model_parameters = {};
};

using MemoryModel = std::vector<MemoryTensor>;

// K task vectors around a shared direction; a matrix, a vector, a narrow matrix and a scalar.
MemoryModel RandomModel(int k, unsigned seed);

MethodSpec SpecOf(const std::string& method, const ParameterMap& parameters, int k);

// What the method writes to sink number `sink`, tensor by tensor; `f64` is the working dtype. Every
// region is `block` elements (whole rows of row programs), all of a tensor where it is 0.
std::vector<std::vector<double>> RunMethod(const MethodSpec& spec,
                                           const std::vector<MethodSpec>& transforms,
                                           const MemoryModel& model, bool f64, int64_t block = 0,
                                           size_t sink = 0);

}  // namespace orthomerge
