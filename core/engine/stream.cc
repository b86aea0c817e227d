#include "core/engine/stream.h"

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <exception>
#include <new>
#include <system_error>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "core/checkpoint/strided_view.h"

namespace orthomerge {
namespace {

// Ranges closer than this are read together.
constexpr uint64_t kLocalGap = 4 * kKiB;
constexpr uint64_t kRemoteGap = 256 * kKiB;
constexpr int kIoThreads = 16;

// A read of consecutive bytes of one input, or of a tensor in a view, into the chunk's buffer. Of a
// tensor whose rows have another order, bytes count in that order, from its first row.
struct Read {
  int file = 0;
  const StridedView* view = nullptr;
  const TensorSource* rows = nullptr;  // null: the file's order
  uint64_t row_bytes = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  size_t at = 0;  // offset in the buffer
};

// Some pieces of one unit with their bytes.
struct Chunk {
  std::vector<Segment> pieces;
  std::vector<Read> reads;
  std::vector<std::vector<std::pair<size_t, uint64_t>>> places;  // [piece][source]: read, byte
  Scratch buffer;
  char* data = nullptr;  // in `buffer`
  bool last_of_unit = false;

  absl::Mutex mutex;
  size_t pending ABSL_GUARDED_BY(mutex) = 0;
  absl::Status status ABSL_GUARDED_BY(mutex);
};

// Decides which bytes a chunk reads.
void PlanReads(const Plan& plan, Chunk* chunk) {
  struct Want {
    int file;
    const StridedView* view;
    const TensorSource* rows;
    uint64_t row_bytes, begin, end;
    size_t piece, source;
  };
  std::vector<Want> wants;
  chunk->places.resize(chunk->pieces.size());
  uint64_t total = 0;
  for (size_t p = 0; p < chunk->pieces.size(); ++p) {
    const Segment& piece = chunk->pieces[p];
    const PlanTensor& tensor = plan.tensors[piece.tensor];
    chunk->places[p].resize(tensor.sources.size());
    for (size_t s = 0; s < tensor.sources.size(); ++s) {
      const TensorSource& source = tensor.sources[s];
      const bool rows = source.rows != nullptr;
      const uint64_t begin = (rows ? 0 : source.begin) + SourceBytes(tensor, source, piece.first);
      wants.push_back({source.file, source.view.get(), rows ? &source : nullptr,
                       rows ? SourceBytes(tensor, source, tensor.row_elements()) : 0, begin,
                       begin + SourceBytes(tensor, source, piece.count), p, s});
      total += wants.back().end - begin;
    }
  }
  std::sort(wants.begin(), wants.end(), [](const Want& a, const Want& b) {
    return std::tie(a.file, a.view, a.rows, a.begin) < std::tie(b.file, b.view, b.rows, b.begin);
  });
  const uint64_t max_gap = plan.remote_inputs ? kRemoteGap : kLocalGap;
  uint64_t gaps_left = total / 4;
  for (const Want& want : wants) {
    Read* last = chunk->reads.empty() ? nullptr : &chunk->reads.back();
    const bool near =
        last != nullptr && last->file == want.file && last->view == want.view &&
        last->rows == want.rows &&
        (want.begin <= last->end || want.begin - last->end <= std::min(max_gap, gaps_left));
    if (near) {
      if (want.begin > last->end) gaps_left -= want.begin - last->end;
      last->end = std::max(last->end, want.end);
    } else {
      chunk->reads.push_back(
          {want.file, want.view, want.rows, want.row_bytes, want.begin, want.end, 0});
    }
    chunk->places[want.piece][want.source] = {chunk->reads.size() - 1, want.begin};
  }
  size_t at = 0;
  for (Read& read : chunk->reads) {
    read.at = at;
    at += (read.end - read.begin + 63) / 64 * 64;
  }
  chunk->data = chunk->buffer.Get(std::max<size_t>(at, 1));
}

absl::Status ReadRowsOf(const TensorSource& source, const RangeReader& read_range, bool remote,
                        uint64_t row_bytes, uint64_t begin, absl::Span<char> out) {
  const auto read_own = [&](uint64_t from, absl::Span<char> to) {
    from += source.begin;
    return source.view == nullptr ? read_range(from, to)
                                  : ReadStrided(read_range, *source.view, from, to);
  };
  return ReadRows(read_own, *source.rows, row_bytes, remote ? kRemoteGap : kLocalGap, begin, out);
}

absl::Status ReadInto(Storage& storage, const Plan& plan, const Read& read, const CallOptions& call,
                      Traffic* traffic, Chunk* chunk) {
  const size_t size = read.end - read.begin;
  if (size == 0) return absl::OkStatus();
  const InputFile input = plan.Located(plan.inputs[read.file]);
  ASSIGN_OR_RETURN(ObjectStore * store, storage.For(input.uri, StorageAccess::kRead));
  const auto read_range = [&](uint64_t begin, absl::Span<char> out) {
    return store->Read(input.uri, begin, out, input.etag, call);
  };
  const auto out = absl::MakeSpan(chunk->data + read.at, size);
  if (read.rows != nullptr) {
    RETURN_IF_ERROR(
        ReadRowsOf(*read.rows, read_range, plan.remote_inputs, read.row_bytes, read.begin, out));
  } else {
    RETURN_IF_ERROR(read.view == nullptr ? read_range(read.begin, out)
                                         : ReadStrided(read_range, *read.view, read.begin, out));
  }
  traffic->read.fetch_add(size, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status Wait(Chunk* chunk) {
  const auto done = [chunk]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(chunk->mutex) { return chunk->pending == 0; };
  absl::MutexLock lock(&chunk->mutex);
  chunk->mutex.Await(absl::Condition(&done));
  return chunk->status;
}

// Where the sources of a piece are in the chunk's buffer.
void PlacesOf(const Chunk& chunk, size_t piece, std::vector<const char*>* bytes) {
  bytes->clear();
  for (const auto& [read, begin] : chunk.places[piece]) {
    bytes->push_back(chunk.data + chunk.reads[read].at + (begin - chunk.reads[read].begin));
  }
}

// One thread of a stage.
class Runner {
 public:
  Runner(Storage& storage, const Plan& plan, const CallOptions& call, Traffic* traffic, IoPool* io,
         std::atomic<bool>* stop, StageWorker* worker)
      : storage_(storage),
        plan_(plan),
        call_(call),
        traffic_(traffic),
        io_(io),
        stop_(stop),
        worker_(worker) {}

  // Reads into our buffers must end before the buffers go, after an exception too.
  ~Runner() {
    for (const auto& chunk : ahead_) (void)Wait(chunk.get());
  }

  absl::Status Run() {
    while (true) {
      const size_t depth = io_ == nullptr ? 1 : static_cast<size_t>(1 + plan_.memory.read_ahead);
      while (ahead_.size() < depth) {
        std::unique_ptr<Chunk> chunk = NextChunk();
        if (chunk == nullptr) break;
        RETURN_IF_ERROR(Start(chunk.get()));
        ahead_.push_back(std::move(chunk));
      }
      if (ahead_.empty()) return worker_->Drain();
      RETURN_IF_ERROR(call_.Check());
      if (stop_->load(std::memory_order_relaxed)) return absl::OkStatus();
      RETURN_IF_ERROR(Wait(ahead_.front().get()));
      const std::unique_ptr<Chunk> chunk = std::move(ahead_.front());
      ahead_.pop_front();
      RETURN_IF_ERROR(Process(*chunk));
      spare_.push_back(std::move(chunk->buffer));
    }
  }

 private:
  // The next pieces of the unit at hand, about one chunk of bytes per source.
  std::unique_ptr<Chunk> NextChunk() {
    if (next_segment_ >= unit_.size()) {
      unit_.clear();
      next_segment_ = 0;
      if (!worker_->NextUnit(&unit_)) return nullptr;
      next_element_ = 0;
    }
    auto chunk = std::make_unique<Chunk>();
    if (!spare_.empty()) {
      chunk->buffer = std::move(spare_.back());
      spare_.pop_back();
    }
    uint64_t room = plan_.memory.chunk;
    while (next_segment_ < unit_.size() && room > 0) {
      const Segment& segment = unit_[next_segment_];
      const PlanTensor& tensor = plan_.tensors[segment.tensor];
      int64_t count = segment.count - next_element_;
      uint64_t widest = 0;
      for (const TensorSource& source : tensor.sources) {
        widest = std::max(widest, SourceBytes(tensor, source, count));
      }
      if (widest > room) {
        const int64_t whole = worker_->PieceGranule(tensor);
        const auto fits = static_cast<int64_t>(
            static_cast<double>(count) * static_cast<double>(room) / static_cast<double>(widest));
        if (fits < whole && !chunk->pieces.empty()) break;
        count = std::min(count, std::max(fits / whole, int64_t{1}) * whole);
        widest = room;
      }
      chunk->pieces.push_back(
          {segment.tensor, segment.first + next_element_, count, static_cast<int>(next_segment_)});
      room -= std::min(room, std::max<uint64_t>(widest, 1));
      next_element_ += count;
      if (next_element_ >= segment.count) {
        ++next_segment_;
        next_element_ = 0;
      }
    }
    chunk->last_of_unit = next_segment_ >= unit_.size();
    return chunk;
  }

  absl::Status Start(Chunk* chunk) {
    PlanReads(plan_, chunk);
    if (io_ == nullptr) {
      for (const Read& read : chunk->reads) RETURN_IF_ERROR(ReadInto(read, chunk));
      return absl::OkStatus();
    }
    {
      absl::MutexLock lock(&chunk->mutex);
      chunk->pending = chunk->reads.size();
    }
    for (const Read& read : chunk->reads) {
      io_->Submit([this, chunk, &read] {
        const absl::Status status = stop_->load(std::memory_order_relaxed)
                                        ? absl::OkStatus()
                                        : Guarded([&] { return ReadInto(read, chunk); });
        absl::MutexLock lock(&chunk->mutex);
        chunk->status.Update(status);
        --chunk->pending;
      });
    }
    return absl::OkStatus();
  }

  absl::Status ReadInto(const Read& read, Chunk* chunk) {
    return orthomerge::ReadInto(storage_, plan_, read, call_, traffic_, chunk);
  }

  absl::Status Process(const Chunk& chunk) {
    std::vector<const char*> bytes;
    for (size_t p = 0; p < chunk.pieces.size(); ++p) {
      PlacesOf(chunk, p, &bytes);
      RETURN_IF_ERROR(worker_->Process(chunk.pieces[p], bytes));
    }
    return chunk.last_of_unit ? worker_->FinishUnit() : absl::OkStatus();
  }

  Storage& storage_;
  const Plan& plan_;
  const CallOptions& call_;
  Traffic* traffic_;
  IoPool* io_;
  std::atomic<bool>* stop_;
  StageWorker* worker_;
  std::vector<Segment> unit_;
  size_t next_segment_ = 0;
  int64_t next_element_ = 0;
  std::deque<std::unique_ptr<Chunk>> ahead_;
  std::vector<Scratch> spare_;  // buffers to use again
};

// Starts up to `count` threads: fewer where the system refuses more, since they do the same work.
void StartThreads(int count, const std::function<void()>& work, std::vector<std::thread>* threads) {
  threads->reserve(static_cast<size_t>(count));
  try {
    while (threads->size() < static_cast<size_t>(count)) threads->emplace_back(work);
  } catch (const std::system_error&) {
  }
}

}  // namespace

void NameThread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

absl::Status Guarded(absl::FunctionRef<absl::Status()> work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return MakeError(Reason::kOutOfMemory,
                     "out of memory; give --memory-budget a smaller size or the machine more");
  } catch (const std::exception& error) {
    return MakeError(Reason::kInternal, absl::StrCat("unexpected fault: ", error.what()));
  }
}

struct IoPool::State {
  absl::Mutex mutex;
  std::deque<std::function<void()>> tasks ABSL_GUARDED_BY(mutex);
  bool closed ABSL_GUARDED_BY(mutex) = false;
  std::vector<std::thread> threads;
};

IoPool::IoPool(int threads, const std::string& name) : state_(std::make_unique<State>()) {
  const auto work = [state = state_.get(), name] {
    NameThread(name);
    const auto ready = [state]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state->mutex) {
      return state->closed || !state->tasks.empty();
    };
    while (true) {
      std::function<void()> task;
      {
        absl::MutexLock lock(&state->mutex);
        state->mutex.Await(absl::Condition(&ready));
        if (state->tasks.empty()) return;
        task = std::move(state->tasks.front());
        state->tasks.pop_front();
      }
      task();
    }
  };
  StartThreads(threads, work, &state_->threads);
  if (state_->threads.empty()) throw std::system_error(EAGAIN, std::generic_category());
}

IoPool::~IoPool() {
  {
    absl::MutexLock lock(&state_->mutex);
    state_->closed = true;
  }
  for (std::thread& thread : state_->threads) thread.join();
}

void IoPool::Submit(std::function<void()> task) {
  absl::MutexLock lock(&state_->mutex);
  state_->tasks.push_back(std::move(task));
}

absl::Status ReadSegment(Storage& storage, const Plan& plan, const Segment& segment,
                         const CallOptions& call, Traffic* traffic, IoPool* io, Scratch* buffer,
                         std::vector<const char*>* bytes) {
  Chunk chunk;
  chunk.buffer = std::move(*buffer);
  chunk.pieces.push_back(segment);
  PlanReads(plan, &chunk);
  absl::Status status;
  if (io == nullptr) {
    for (const Read& read : chunk.reads) {
      status = ReadInto(storage, plan, read, call, traffic, &chunk);
      if (!status.ok()) break;
    }
  } else {
    {
      absl::MutexLock lock(&chunk.mutex);
      chunk.pending = chunk.reads.size();
    }
    for (const Read& read : chunk.reads) {
      io->Submit([&] {
        const absl::Status done =
            Guarded([&] { return ReadInto(storage, plan, read, call, traffic, &chunk); });
        absl::MutexLock lock(&chunk.mutex);
        chunk.status.Update(done);
        --chunk.pending;
      });
    }
    status = Wait(&chunk);
  }
  PlacesOf(chunk, 0, bytes);
  *buffer = std::move(chunk.buffer);  // the memory stays where it is
  return status;
}

absl::Status RunStage(Storage& storage, const Plan& plan, const std::string& name,
                      const CallOptions& call, Traffic* traffic,
                      const std::function<std::unique_ptr<StageWorker>()>& make_worker) {
  std::unique_ptr<IoPool> io;
  if (plan.remote_inputs && plan.memory.read_ahead > 0) {
    io = std::make_unique<IoPool>(kIoThreads, name + "-io");
  }
  std::atomic<bool> stop{false};
  absl::Mutex mutex;
  absl::Status first_error;
  const auto work = [&] {
    NameThread(name);
    const absl::Status status = Guarded([&] {
      const std::unique_ptr<StageWorker> worker = make_worker();
      return Runner(storage, plan, call, traffic, io.get(), &stop, worker.get()).Run();
    });
    if (!status.ok()) {
      stop = true;
      absl::MutexLock lock(&mutex);
      first_error.Update(status);
    }
  };
  std::vector<std::thread> threads;
  StartThreads(plan.memory.threads, work, &threads);
  if (threads.empty()) work();
  for (std::thread& thread : threads) thread.join();
  return first_error;
}

}  // namespace orthomerge
