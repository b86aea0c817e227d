// How long the job store takes for what servers and workers ask, with a long queue and many old
// jobs, and the floor of every durable write: 4 KiB appended and synced on the same disk.
//
//   job_store_bench FOLDER [QUEUED [FINAL]]
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "core/jobs/sqlite_store.h"

namespace {

using orthomerge::ClaimRequest;
using orthomerge::JobQuery;
using orthomerge::JobStore;
using orthomerge::NewJob;

template <typename T>
void Must(const T& result) {
  if (result.ok()) return;
  const absl::Status* status = nullptr;
  if constexpr (std::is_same_v<T, absl::Status>) {
    status = &result;
  } else {
    status = &result.status();
  }
  std::fprintf(stderr, "%s\n", status->ToString().c_str());
  std::exit(1);
}

// A row of the table: median, 99th percentile and worst, in milliseconds.
void Measure(const char* name, int rounds, const std::function<void(int)>& body) {
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body(i);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    times.push_back(took.count());
  }
  std::sort(times.begin(), times.end());
  std::printf("| %-44s | %8.3f | %8.3f | %8.3f |\n", name, times[times.size() / 2],
              times[times.size() * 99 / 100], times.back());
  std::fflush(stdout);
}

NewJob MakeJob(const std::string& id, const std::string& team) {
  NewJob job;
  job.key = {"bench", id};
  job.request_id = id;
  job.request = std::string(1000, 'r');
  job.spec.document = std::string(1000, 'd');
  job.labels = {{"team", team}, {"run", id}};
  job.plan.method = "average";
  job.plan.memory_budget = 1 << 20;
  for (int i = 0; i < 8; ++i) job.plan.inputs.push_back({"s3://bucket/model/part-" + id, 1, "tag"});
  return job;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s FOLDER [QUEUED [FINAL]]\n", argv[0]);
    return 2;
  }
  const std::string folder = argv[1];
  const int queued = argc > 2 ? std::atoi(argv[2]) : 10'000;
  const int final = argc > 3 ? std::atoi(argv[3]) : 100'000;
  auto opened = orthomerge::OpenSqliteStore(folder + "/bench.db");
  Must(opened);
  JobStore& store = **opened;
  const ClaimRequest any = {.worker = "w", .devices = {"", "cpu"}, .free_memory = 1 << 30};
  const auto claim = [&] {
    auto claimed = store.Claim(any);
    Must(claimed);
    return **claimed;
  };
  for (int i = 0; i < final; ++i) {
    Must(store.Create(MakeJob("old" + std::to_string(i), i % 1000 == 0 ? "rare" : "nlp"), 1 << 30));
    if (i % 10 == 0) {
      Must(store.Cancel({"bench", "old" + std::to_string(i)}, {}, ""));
    } else {
      Must(store.Succeed(claim().lease, {}));
    }
  }
  for (int i = 0; i < queued; ++i) {
    Must(store.Create(MakeJob("new" + std::to_string(i), "nlp"), 1 << 30));
  }
  std::printf("%d queued jobs, %d final ones\n\n", queued, final);
  std::printf("| What | median ms | p99 ms | worst ms |\n|---|---|---|---|\n");

  const int fd = open((folder + "/floor").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
  const std::string block(4096, 'x');
  Measure("floor: append 4 KiB, sync", 500, [&](int) {
    if (write(fd, block.data(), block.size()) < 0 || fdatasync(fd) != 0) std::exit(1);
  });
  close(fd);
  Measure("create", 500,
          [&](int i) { Must(store.Create(MakeJob("x" + std::to_string(i), "nlp"), 1 << 30)); });
  Measure("repeated create", 500,
          [&](int i) { Must(store.Create(MakeJob("x" + std::to_string(i), "nlp"), 1 << 30)); });
  Measure("get", 2000,
          [&](int i) { Must(store.Get({"bench", "old" + std::to_string(i * 37 % final)})); });
  const auto list = [&](const char* name, const char* filter, int rounds) {
    Measure(name, rounds, [&](int) {
      JobQuery query;
      query.tenant = "bench";
      query.filter = *orthomerge::ParseJobFilter(filter);
      Must(store.List(query));
    });
  };
  list("list 50", "", 300);
  list("list 50, state = SUCCEEDED", "state = SUCCEEDED", 300);
  list("list 50, a label of one job in a thousand", "labels.team = rare", 300);
  list("list 50, a label of nearly all", "labels.team = nlp", 300);
  list("list, two states that no job has", "state = RUNNING OR state = FAILED", 30);
  list("list, error.reason that no job has", "error.reason = DISK_FULL", 30);
  Measure("counts", 50, [&](int) { Must(store.Counts()); });
  Measure("claim, nothing fits", 100, [&](int) {
    ClaimRequest small = any;
    small.free_memory = 1;
    Must(store.Claim(small));
  });
  std::vector<orthomerge::Lease> leases;
  Measure("claim", 500, [&](int) { leases.push_back(claim().lease); });
  Measure("renew with progress", 500, [&](int i) {
    orthomerge::JobProgress progress;
    progress.bytes_done = 1;
    Must(store.Renew(leases[i], absl::Seconds(30), progress));
  });
  Measure("start publishing", 500, [&](int i) { Must(store.StartPublishing(leases[i])); });
  Measure("succeed", 500, [&](int i) { Must(store.Succeed(leases[i], {})); });
  Measure("reap, nothing lost", 200, [&](int) { Must(store.Reap({})); });
  return 0;
}
