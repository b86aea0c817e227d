#include "core/engine/side_data.h"

#include <algorithm>
#include <tuple>

#include "core/checkpoint/strided_view.h"
#include "core/math/kernels.h"

namespace orthomerge {
namespace {

constexpr int kReadThreads = 8;
constexpr uint64_t kAlignment = 64;

uint64_t RoundUp(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

template <class T>
void Convert(const SideTensor& side, const char* bytes, T* to) {
  const int64_t rows = side.transposed ? side.columns : side.rows;
  const int64_t columns = side.transposed ? side.rows : side.columns;
  const int64_t panel = side.panels ? kPanelColumns : columns;
  const auto place = [&](int64_t row, int64_t column) -> T& {
    const int64_t first = column / panel * panel;
    return to[first * rows + row * std::min(panel, columns - first) + column - first];
  };
  std::vector<double> values(static_cast<size_t>(side.columns));
  const auto row_bytes = static_cast<uint64_t>(side.columns) * BitsOf(side.dtype) / 8;
  for (int64_t i = 0; i < side.rows; ++i, bytes += row_bytes) {
    LoadF64(side.dtype, bytes, values.data(), side.columns);
    for (int64_t j = 0; j < side.columns; ++j) {
      T& value = side.transposed ? place(j, i) : place(i, j);
      value = static_cast<T>(values[j] * side.scale);
    }
  }
}

// Bytes of one piece of all sources while the rows of padding are made.
constexpr uint64_t kTokenBlock = kMiB;

// Rows of TokenSide, and what making them takes.
uint64_t TokenRowCount(const PlanTensor& tensor) {
  if (tensor.token_rows == nullptr) return 0;
  return tensor.token_rows->others.size() +
         (tensor.token_rows->has_padding ? tensor.sources.size() : 0);
}

uint64_t TokenSideBytes(const PlanTensor& tensor) {
  return RoundUp(TokenRowCount(tensor) * static_cast<uint64_t>(tensor.row_elements()) *
                 (tensor.tensor.f64 ? 8 : 4));
}

uint64_t TokenWorkBytes(const PlanTensor& tensor) {
  if (TokenRowCount(tensor) == 0) return 0;
  const auto columns = static_cast<uint64_t>(tensor.row_elements());
  const uint64_t raw = tensor.token_rows->others.size() * RoundUp(columns * 8);
  if (!tensor.token_rows->has_padding) return raw;
  return raw + tensor.sources.size() * columns * 32 + 2 * kTokenBlock;
}

}  // namespace

uint64_t SideBytes(const PlanTensor& tensor) {
  if (tensor.copied()) return 0;
  uint64_t bytes = TokenSideBytes(tensor) + TokenWorkBytes(tensor);
  for (const TensorSource& source : tensor.sources) {
    if (source.form == nullptr) continue;
    for (const SideTensor& side : source.form->side()) {
      bytes +=
          RoundUp(side.elements() * (tensor.tensor.f64 ? 8 : 4)) + RoundUp(side.stored_bytes());
    }
  }
  return bytes;
}

struct SideData::Entry {
  enum class State { kReading, kReady, kFailed };
  int tensor = 0;
  int holders = 0;
  uint64_t bytes = 0;
  State state = State::kReading;
  absl::Status status;
  std::list<int>::iterator idle;  // where nobody holds it
  Scratch memory;
  std::vector<std::vector<const void*>> sources;
  TokenSide token_side;
};

SideData::SideData(Storage& storage, const Plan& plan, const CallOptions& call, Traffic* traffic)
    : storage_(storage), plan_(plan), call_(call), traffic_(traffic) {
  const bool any = std::any_of(plan.tensors.begin(), plan.tensors.end(),
                               [](const PlanTensor& tensor) { return SideBytes(tensor) > 0; });
  if (any && plan.remote_inputs) io_ = std::make_unique<IoPool>(kReadThreads, "side-io");
}

SideData::~SideData() = default;

absl::StatusOr<HeldSideData> SideData::Get(const PlanTensor& tensor) {
  const uint64_t bytes = SideBytes(tensor);
  if (bytes == 0) return HeldSideData();
  bool is_new = false;
  Entry* const entry = Enter(tensor.tensor.index, bytes, &is_new);
  HeldSideData held(this, entry);
  if (is_new) {
    const absl::Status status = Guarded([&] { return Read(tensor, entry); });
    absl::MutexLock lock(&mutex_);
    entry->status = status;
    entry->state = status.ok() ? Entry::State::kReady : Entry::State::kFailed;
  }
  RETURN_IF_ERROR(Outcome(entry));
  return held;
}

SideData::Entry* SideData::Enter(int tensor, uint64_t bytes, bool* is_new) {
  // One tensor alone always fits.
  const auto may_enter = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return entries_.contains(tensor) || held_ == 0 || held_ + bytes <= plan_.memory.side_pool;
  };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&may_enter));
  std::unique_ptr<Entry>& entry = entries_[tensor];
  *is_new = entry == nullptr;
  if (*is_new) {
    while (!idle_.empty() && held_ + resting_ + bytes > plan_.memory.side_pool) {
      const auto oldest = entries_.find(idle_.front());
      resting_ -= oldest->second->bytes;
      entries_.erase(oldest);
      idle_.pop_front();
    }
    entry = std::make_unique<Entry>();
    entry->tensor = tensor;
    entry->bytes = bytes;
    held_ += bytes;
  } else if (entry->holders == 0) {
    idle_.erase(entry->idle);
    resting_ -= entry->bytes;
    held_ += entry->bytes;
  }
  ++entry->holders;
  return entry.get();
}

absl::Status SideData::Outcome(Entry* entry) {
  const auto was_read = [entry] { return entry->state != Entry::State::kReading; };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&was_read));
  return entry->status;
}

void SideData::Release(Entry* entry) {
  absl::MutexLock lock(&mutex_);
  if (--entry->holders > 0) return;
  held_ -= entry->bytes;
  if (entry->state == Entry::State::kFailed) {  // the next one tries again
    entries_.erase(entry->tensor);
    return;
  }
  resting_ += entry->bytes;
  entry->idle = idle_.insert(idle_.end(), entry->tensor);
}

absl::Status SideData::Read(const PlanTensor& tensor, Entry* entry) {
  struct Part {
    const SideTensor* side;
    const void** value;
    size_t at;  // in `raw`
  };
  std::vector<Part> parts;
  uint64_t bytes = 0;
  const uint64_t width = tensor.tensor.f64 ? 8 : 4;
  entry->sources.resize(tensor.sources.size());
  for (size_t s = 0; s < tensor.sources.size(); ++s) {
    if (tensor.sources[s].form == nullptr) continue;
    const std::vector<SideTensor>& side = tensor.sources[s].form->side();
    entry->sources[s].resize(side.size());
    for (size_t i = 0; i < side.size(); ++i) {
      parts.push_back({&side[i], &entry->sources[s][i], 0});
      bytes += RoundUp(side[i].elements() * width);
    }
  }
  // Neighbours in a file, as the factors of one module are, take one read.
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return std::tie(a.side->file, a.side->view, a.side->begin) <
           std::tie(b.side->file, b.side->view, b.side->begin);
  });
  std::vector<Want> wants;
  uint64_t raw_bytes = 0;
  for (Part& part : parts) {
    const uint64_t end = part.side->begin + part.side->stored_bytes();
    Want* const last = wants.empty() ? nullptr : &wants.back();
    if (last != nullptr && last->file == part.side->file && last->view == part.side->view.get() &&
        last->end == part.side->begin) {
      last->end = end;
    } else {
      raw_bytes = RoundUp(raw_bytes);
      wants.push_back({part.side->file, part.side->view.get(), part.side->begin, end, raw_bytes});
    }
    part.at = raw_bytes;
    raw_bytes += part.side->stored_bytes();
  }
  Scratch raw;
  char* const from = raw.Get(std::max<uint64_t>(raw_bytes, 1));
  RETURN_IF_ERROR(ReadAll(wants, from));
  char* to = entry->memory.Get(std::max<uint64_t>(bytes + TokenSideBytes(tensor), 1));
  for (const Part& part : parts) {
    *part.value = to;
    if (tensor.tensor.f64) {
      Convert(*part.side, from + part.at, reinterpret_cast<double*>(to));
    } else {
      Convert(*part.side, from + part.at, reinterpret_cast<float*>(to));
    }
    to += RoundUp(part.side->elements() * width);
  }
  raw.Release();
  if (TokenRowCount(tensor) == 0) return absl::OkStatus();
  return tensor.tensor.f64 ? ReadTokenRows(tensor, entry, reinterpret_cast<double*>(to))
                           : ReadTokenRows(tensor, entry, reinterpret_cast<float*>(to));
}

template <class T>
absl::Status SideData::ReadTokenRows(const PlanTensor& tensor, Entry* entry, T* to) {
  const TokenRows& wanted = *tensor.token_rows;
  const int64_t columns = tensor.row_elements();
  std::vector<Want> wants;
  uint64_t raw_bytes = 0;
  for (const TokenRows::Other& other : wanted.others) {
    const TensorSource& source = tensor.sources[other.source];
    const uint64_t size = SourceBytes(tensor, source, columns);
    const uint64_t begin = source.begin + static_cast<uint64_t>(other.row) * size;
    wants.push_back({source.file, source.view.get(), begin, begin + size, raw_bytes});
    raw_bytes += RoundUp(size);
  }
  Scratch raw;
  char* const from = raw.Get(std::max<uint64_t>(raw_bytes, 1));
  RETURN_IF_ERROR(ReadAll(wants, from));
  entry->token_side.others = to;
  for (size_t i = 0; i < wants.size(); ++i, to += columns) {
    const TokenRows::Other& other = wanted.others[i];
    const TensorSource& source = tensor.sources[other.source];
    const char* const bytes = from + wants[i].at;
    if (source.form == nullptr) {
      LoadElements(source.dtype, bytes, to, columns);
    } else {
      source.form->Load({other.row * columns, columns, bytes, entry->sources[other.source]}, to);
    }
  }
  if (!wanted.has_padding) return absl::OkStatus();

  const size_t sources = tensor.sources.size();
  const int64_t block = std::max<int64_t>(
      1, static_cast<int64_t>(kTokenBlock / (sources * static_cast<uint64_t>(columns) * 8)));
  TokenMeans means(tensor);
  std::vector<T> memory(sources * static_cast<size_t>(std::min(block, wanted.tokens) * columns));
  std::vector<int64_t> nonfinite(sources);
  std::vector<const char*> bytes;
  std::vector<T*> rows(sources);
  for (int64_t done = 0; done < wanted.tokens; done += block) {
    RETURN_IF_ERROR(call_.Check());
    const int64_t first = done * columns;
    const int64_t count = std::min(block, wanted.tokens - done) * columns;
    RETURN_IF_ERROR(ReadSegment(storage_, plan_, {tensor.tensor.index, first, count, 0}, call_,
                                traffic_, io_.get(), &raw, &bytes));
    for (size_t s = 0; s < sources; ++s) {
      rows[s] = memory.data() + static_cast<int64_t>(s) * count;
      LoadOwnRows(tensor, s, first, count, bytes[s], entry->sources[s], rows[s]);
    }
    FillRows(tensor, first, count, entry->token_side, rows, absl::MakeSpan(nonfinite));
    if (plan_.recipe.input_dtype.has_value()) {
      for (T* const row : rows) RoundTo(*plan_.recipe.input_dtype, row, count);
    }
    means.Add(first, count, rows);
  }
  entry->token_side.padding = to;
  for (size_t s = 0; s < sources; ++s) {
    for (int64_t j = 0; j < columns; ++j) *to++ = static_cast<T>(means.Of(s, j));
  }
  return absl::OkStatus();
}

absl::Status SideData::ReadAll(const std::vector<Want>& wants, char* to) {
  const auto read = [this, to](const Want& want) -> absl::Status {
    const InputFile input = plan_.Located(plan_.inputs[want.file]);
    ASSIGN_OR_RETURN(ObjectStore * store, storage_.For(input.uri, StorageAccess::kRead));
    const size_t size = want.end - want.begin;
    const auto read_range = [&](uint64_t begin, absl::Span<char> out) {
      return store->Read(input.uri, begin, out, input.etag, call_);
    };
    const auto out = absl::MakeSpan(to + want.at, size);
    RETURN_IF_ERROR(want.view == nullptr ? read_range(want.begin, out)
                                         : ReadStrided(read_range, *want.view, want.begin, out));
    traffic_->read.fetch_add(size, std::memory_order_relaxed);
    return absl::OkStatus();
  };
  if (io_ == nullptr) {
    for (const Want& want : wants) RETURN_IF_ERROR(read(want));
    return absl::OkStatus();
  }
  absl::Mutex mutex;
  size_t pending = wants.size();
  absl::Status status;
  for (const Want& want : wants) {
    io_->Submit([&] {
      const absl::Status done = Guarded([&] { return read(want); });
      absl::MutexLock lock(&mutex);
      status.Update(done);
      --pending;
    });
  }
  absl::MutexLock lock(&mutex);
  mutex.Await(absl::Condition(+[](size_t* left) { return *left == 0; }, &pending));
  return status;
}

HeldSideData::~HeldSideData() {
  if (owner_ != nullptr) owner_->Release(entry_);
}

absl::Span<const void* const> HeldSideData::of(size_t source) const {
  if (owner_ == nullptr) return {};
  return entry_->sources[source];
}

TokenSide HeldSideData::token_side() const {
  return owner_ == nullptr ? TokenSide() : entry_->token_side;
}

}  // namespace orthomerge
