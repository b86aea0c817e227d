// How long the spectral methods take for one matrix, beside their matrix products alone.
//
//   spectral_bench [M N K [DEVICE [METHOD]]]
//
// Every product that LibTorch is asked for while a method runs is noted with its shapes and made
// again, alone, in the same run. Methods and products alternate; the ratio is that of the medians.
// The peak is how much more memory the process held while the method ran, beside what the method
// declares.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "core/math/linalg.h"

namespace {

using orthomerge::TaskMatrices;

// m x k times k x n; whether in float64.
using Product = std::tuple<int64_t, int64_t, int64_t, bool>;
std::map<Product, int> products;

std::unique_ptr<at::ObserverContext> Note(const at::RecordFunction& call) {
  const std::string name = call.name();
  const auto matrix = [&](size_t i) { return call.inputs()[i].toTensor(); };
  const auto add = [&](const at::Tensor& a, const at::Tensor& b) {
    const bool f64 = a.scalar_type() == at::kDouble;
    ++products[{a.size(0), a.size(1), b.size(1), f64}];
  };
  if (name == "aten::mm") add(matrix(0), matrix(1));
  if (name == "aten::addmm" || name == "aten::addmm_") add(matrix(1), matrix(2));
  return nullptr;
}

void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "spectral_bench: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

bool on_cpu = true;

// Of a CPU the time that it worked: all is done by one thread, others may be busy beside it.
double Now() {
  timespec now = {};
  clock_gettime(on_cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double Seconds(const std::function<void()>& call) {
  const double start = Now();
  call();
  return Now() - start;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Makes all products that were noted, once each with its repetitions.
double Replay(at::Device device) {
  double seconds = 0;
  for (const auto& [product, times] : products) {
    const auto& [m, k, n, f64] = product;
    const auto options = at::TensorOptions().dtype(f64 ? at::kDouble : at::kFloat).device(device);
    const at::Tensor a = at::rand({m, k}, options), b = at::rand({k, n}, options);
    at::Tensor c = at::empty({m, n}, options);
    const int count = times;
    seconds += Seconds([&] {
      for (int i = 0; i < count; ++i) at::mm_out(c, a, b);
      c[0][0].item<double>();  // waits for the device
    });
  }
  return seconds;
}

int64_t StatusKib(const char* key) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(key, 0) == 0) return std::atoll(line.c_str() + std::strlen(key));
  }
  return 0;
}

void ResetPeak() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

}  // namespace

int main(int argc, char** argv) {
  if (getenv("OPENBLAS_NUM_THREADS") == nullptr) {
    // BLAS reads it when it is loaded, which is before main.
    orthomerge::UseOneBlasThread();
    execv("/proc/self/exe", argv);
  }
  const int64_t m = argc > 3 ? std::atoll(argv[1]) : 1024,
                n = argc > 3 ? std::atoll(argv[2]) : 1024;
  const int64_t count = argc > 3 ? std::atoll(argv[3]) : 4, r = std::min(m, n);
  const std::string device = argc > 4 ? argv[4] : "cpu", only = argc > 5 ? argv[5] : "";
  if (m < 1 || n < 1 || count < 1) {
    std::fprintf(stderr, "usage: spectral_bench [M N K [DEVICE [METHOD]]]\n");
    return 2;
  }
  on_cpu = device == "cpu";
  const auto algebra = orthomerge::LoadDenseAlgebra(device);
  Must(algebra.status());
  at::set_num_threads(1);

  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> shared(static_cast<size_t>(m * n));
  for (float& x : shared) x = 5e-4f * normal(random);
  std::vector<std::vector<float>> rows(static_cast<size_t>(count), shared);
  std::vector<void*> pointers;
  for (std::vector<float>& row : rows) {
    for (float& x : row) x += 1e-3f * normal(random);
    pointers.push_back(row.data());
  }
  TaskMatrices tasks;
  tasks.m = m;
  tasks.n = n;
  tasks.rows = pointers;
  std::vector<double> merged(static_cast<size_t>(m * n));
  std::vector<double> basis(static_cast<size_t>(m * std::min(m, count * n)));

  const int64_t specific = r / 5 / count;
  orthomerge::Descent descent;
  descent.rate = 1e-5;
  descent.steps = 300;
  orthomerge::DogeProblem doge;
  for (const std::vector<float>& row : rows) {
    double squares = 0;
    for (const float x : row) squares += double{x} * x;
    doge.factors.push_back(0.07 / std::sqrt(squares));
  }
  doge.task_rank = r / count;
  doge.shared_rank = r / 6;
  doge.descent.rate = 1e-4;
  doge.descent.steps = 400;
  struct Case {
    const char* name;
    int repetitions;
    int64_t declared;
    std::function<absl::Status()> run;
  };
  const orthomerge::DenseAlgebra& dense = **algebra;
  const std::vector<Case> cases = {
      {"iso_c", 3, orthomerge::IsoCWorkingBytes(m, n),
       [&] { return dense.IsoC(tasks, merged.data()); }},
      {"iso_cts", 3, orthomerge::IsoCtsWorkingBytes(m, n),
       [&] { return dense.IsoCts(tasks, {r - specific * count, specific}, merged.data()); }},
      {"tsv_m", 3, orthomerge::TsvMWorkingBytes(m, n),
       [&] { return dense.TsvM(tasks, r / count, merged.data()); }},
      {"wudi", 1, orthomerge::WudiWorkingBytes(m, n, false),
       [&] { return dense.Wudi(tasks, descent, merged.data()); }},
      {"doge", 1, orthomerge::DogeWorkingBytes(m, n),
       [&] { return dense.Doge(tasks, doge, merged.data()); }},
      {"knots", 3, orthomerge::AlignWorkingBytes(m, n, count),
       // Overwrites the tasks with their coordinates: as good a matrix as before.
       [&] { return dense.Align(tasks, 1e-5, basis.data()).status(); }},
  };

  std::printf("%lld x %lld, %lld tasks, %s\n\n", static_cast<long long>(m),
              static_cast<long long>(n), static_cast<long long>(count),
              dense.numerics_class().c_str());
  std::printf("| Method | Method, s | Its products, s | Ratio | Peak, MiB | Declared, MiB |\n");
  std::printf("|---|---|---|---|---|---|\n");
  Must(dense.IsoC(tasks, merged.data()));  // buffers of the libraries
  for (const Case& test : cases) {
    if (!only.empty() && only != test.name) continue;
    products.clear();
    const auto handle = at::addGlobalCallback(at::RecordFunctionCallback(Note).needsInputs(true));
    ResetPeak();
    const int64_t before = StatusKib("VmRSS:");
    Must(test.run());
    const int64_t peak = StatusKib("VmHWM:") - before;
    at::removeCallback(handle);
    std::vector<double> method, alone;
    for (int i = 0; i < test.repetitions; ++i) {
      alone.push_back(Replay(at::Device(device)));
      method.push_back(Seconds([&] { Must(test.run()); }));
    }
    const double a = Median(method), b = Median(alone);
    std::printf("| %s | %.3f | %.3f | %.2f | %.0f | %.0f |\n", test.name, a, b, a / b,
                static_cast<double>(peak) / 1024, static_cast<double>(test.declared) / (1 << 20));
    std::fflush(stdout);
  }
  return 0;
}
