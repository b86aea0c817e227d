#include "core/engine/stack.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/engine/side_data.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

constexpr size_t kAlignment = 64;
// malloc would keep larger blocks that come and go, in pieces that fit nobody.
constexpr size_t kMapped = kMiB;

size_t RoundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

template <class T>
void LoadBits(const char* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i / 8] >> (i % 8) & 1);
}

void SubtractRow(const float* a, const float* b, double factor, float* to, int64_t n) {
  BestKernels().subtract(a, b, static_cast<float>(factor), to, n);
}
void SubtractRow(const double* a, const double* b, double factor, double* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = (a[i] - b[i]) * factor;
}

template <class T>
void ScaleRow(double factor, T* row, int64_t n) {
  if (factor == 1) return;
  for (int64_t i = 0; i < n; ++i) row[i] *= static_cast<T>(factor);
}

}  // namespace

void Scratch::Free::operator()(char* p) const {
  if (mapped > 0) {
    munmap(p, mapped);
  } else {
    std::free(p);
  }
}

char* Scratch::Get(size_t bytes) {
  if (bytes > size_) {
    data_.reset();
    size_ = RoundUp(bytes);
    if (size_ >= kMapped) {
      void* const p =
          mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) throw std::bad_alloc();
      data_ = {static_cast<char*>(p), Free{size_}};
    } else {
      data_ = {static_cast<char*>(std::aligned_alloc(kAlignment, size_)), Free{0}};
      if (data_ == nullptr) throw std::bad_alloc();
    }
  }
  return data_.get();
}

void Scratch::Release() {
  data_.reset();
  size_ = 0;
}

void Stack::Release() {
  rows_.Release();
  counts_.Release();
  sink_rows_.Release();
}

template <class T>
int64_t Stack::LoadRow(const PlanTensor& tensor, size_t source, const char* bytes, T* row) const {
  const TensorSource& from = tensor.sources[source];
  const int64_t n = region_.elements;
  if (from.bits) {
    LoadBits(bytes, row, n);
    return 0;
  }
  if (from.form == nullptr && from.rows == nullptr) {
    if (!from.from_base) return LoadElements(from.dtype, bytes, row, n);
    std::fill(row, row + n, T{0});
    return 0;
  }
  if (from.rows != nullptr) {
    return LoadOwnRows(tensor, source, region_.offset, n, bytes, side_->of(source), row);
  }
  const FormInput input{region_.offset, n, bytes, side_->of(source)};
  return from.from_base ? from.form->LoadAdded(input, row) : from.form->Load(input, row);
}

template <class T>
void Stack::BuildAs(const Plan& plan, const PlanTensor& tensor, absl::Span<const char* const> bytes,
                    StackUse use, int64_t* nonfinite) {
  const int64_t n = region_.elements;
  const size_t sources = tensor.sources.size();
  row_bytes_ = RoundUp(static_cast<size_t>(n) * sizeof(T));
  char* memory = rows_.Get(row_bytes_ * sources);
  const auto row = [&](size_t s) { return reinterpret_cast<T*>(memory + row_bytes_ * s); };
  bool finite = true;
  bad_.resize(sources);
  for (size_t s = 0; s < sources; ++s) bad_[s] = LoadRow(tensor, s, bytes[s], row(s));
  if (tensor.token_rows != nullptr) {
    std::vector<T*> rows;
    for (size_t s = 0; s < sources; ++s) rows.push_back(row(s));
    FillRows(tensor, region_.offset, n, side_->token_side(), rows, absl::MakeSpan(bad_));
  }
  for (size_t s = 0; s < sources; ++s) {
    if (plan.recipe.input_dtype.has_value()) RoundTo(*plan.recipe.input_dtype, row(s), n);
    if (bad_[s] > 0) finite = false;
    if (bad_[s] > 0 && nonfinite != nullptr) nonfinite[s] += bad_[s];
  }
  region_.counts = nullptr;
  if (!finite) {
    auto* counts = reinterpret_cast<uint8_t*>(counts_.Get(static_cast<size_t>(n)));
    for (int64_t i = 0; i < n; ++i) {
      bool all = true;
      for (size_t s = 0; s < sources; ++s) all = all && std::isfinite(row(s)[i]);
      counts[i] = all;
    }
    region_.counts = counts;
  }
  const size_t first = tensor.base_source ? 1 : 0;
  region_.base = tensor.base_source ? row(0) : nullptr;
  row_pointers_.clear();
  for (size_t s = first; s < sources; ++s) {
    if (tensor.sources[s].from_base) {
      ScaleRow(plan.row_factors[tensor.sources[s].origin], row(s), n);
    } else if (plan.method->wants_task_vectors() && tensor.base_source) {
      SubtractRow(row(s), row(0), plan.row_factors[tensor.sources[s].origin], row(s), n);
    }
    if (!finite && use == StackUse::kReduce) {
      for (int64_t i = 0; i < n; ++i) row(s)[i] = region_.counts[i] != 0 ? row(s)[i] : T{0};
    }
    row_pointers_.push_back(row(s));
  }
  region_.rows = row_pointers_;
}

const Region& Stack::Build(const Plan& plan, const PlanTensor& tensor, int64_t first, int64_t count,
                           absl::Span<const char* const> bytes, StackUse use, int64_t* nonfinite) {
  region_ = Region();
  region_.f64 = tensor.tensor.f64;
  region_.offset = first;
  region_.elements = count;
  region_.columns = tensor.program->row_elements(tensor.tensor);
  if (region_.f64) {
    BuildAs<double>(plan, tensor, bytes, use, nonfinite);
  } else {
    BuildAs<float>(plan, tensor, bytes, use, nonfinite);
  }
  return region_;
}

void Stack::ClearBase() {
  if (region_.base != nullptr) std::memset(rows_.Get(0), 0, row_bytes_);  // the first row
}

absl::Span<void* const> Stack::Sinks(const std::vector<bool>& wanted) {
  const auto count = static_cast<size_t>(std::count(wanted.begin(), wanted.end(), true));
  char* next = sink_rows_.Get(row_bytes_ * count);
  sink_pointers_.clear();
  for (const bool want : wanted) {
    sink_pointers_.push_back(want ? next : nullptr);
    if (want) next += row_bytes_;
  }
  return sink_pointers_;
}

}  // namespace orthomerge
