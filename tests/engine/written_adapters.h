// What the tests of adapters as output share.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/checkpoints.h"

namespace orthomerge {

class WrittenAdapterTest : public EngineTest {
 protected:
  WrittenAdapterTest();

  // A tensor of a module in an adapter.
  static std::string Name(const std::string& module, const std::string& end = ".weight");

  // Factors of `module` for a weight of [out, in], for the adapter to be written next.
  void Add(const std::string& module, int64_t out, int64_t in, int64_t rank,
           DType dtype = DType::kF32);
  void WriteAdapter(const std::string& name, const std::string& settings);
  // The base with m0, m1 and m2 over it: of several ranks, dtypes and kinds of scales.
  void WriteThree();

  // To "out/adapter".
  Recipe MakeExact(const std::string& method, int k, const ParameterMap& parameters = {}) const;
  Recipe MakeRanked(const std::string& method, int k, int64_t rank,
                    const ParameterMap& parameters = {}) const;

  // Runs of the recipe with other threads and budgets, down to the plan's smallest.
  void ExpectSameBytes(const Recipe& recipe, const Plan& plan);

  // Of an adapter in a folder.
  nlohmann::json Config(const std::string& folder) const;
  std::vector<std::string> Modules(const std::string& folder) const;
  double ScaleOf(const std::string& folder, const std::string& module) const;
  std::vector<double> Change(const std::string& folder, const std::string& module) const;

  // `adapter` in the report of "out".
  nlohmann::json Report() const;

  static std::vector<double> Sum(
      const std::vector<std::pair<double, std::vector<double>>>& summands);
  static void ExpectNear(const std::vector<double>& got, const std::vector<double>& want,
                         double tolerance = 1e-5);

  std::mt19937_64 random_{29};
  TestModel base_, adapter_;
};

}  // namespace orthomerge
