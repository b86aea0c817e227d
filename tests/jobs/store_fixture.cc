#include "tests/jobs/store_fixture.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "core/jobs/sqlite_store.h"

namespace orthomerge {
namespace {

class SqliteHome : public StoreHome {
 public:
  ~SqliteHome() override { std::filesystem::remove_all(folder_); }
  absl::StatusOr<std::unique_ptr<JobStore>> Open(Clock clock) override {
    return OpenSqliteStore(folder_ + "/jobs.db", std::move(clock));
  }

 private:
  const std::string folder_ = MakeFolder();
};

}  // namespace

std::string MakeFolder() {
  for (const std::string& parent : {std::string("/dev/shm"), testing::TempDir()}) {
    std::string pattern = parent + "/job_store_XXXXXX";
    if (mkdtemp(pattern.data()) != nullptr) return pattern;
  }
  ADD_FAILURE() << "no place for a folder";
  return "";
}

std::vector<StoreKind> StoreKinds() {
  return {{"Sqlite", [] { return std::make_unique<SqliteHome>(); }}};
}

std::string KindName(const testing::TestParamInfo<StoreKind>& info) { return info.param.name; }

std::string ReasonText(const absl::Status& status) {
  if (status.ok()) return "";
  const absl::string_view name = ReasonName(ReasonOf(status));
  return std::string(name);
}

JobResult MakeResult() {
  JobResult result;
  result.output_uri = "s3://bucket/out";
  result.plan_digest = "digest";
  result.files = {{"model.safetensors", 12, "abc"}};
  result.stages = {{"write", 1.5, 24, 12}};
  result.report_json = R"({"nonfinite": 0})";
  result.warnings = {"careful"};
  result.resumed = true;
  result.seconds = 2.25;
  return result;
}

JobProgress MakeProgress(const std::string& stage, uint64_t done, uint64_t resumed) {
  JobProgress progress;
  progress.stage = stage;
  progress.bytes_done = done;
  progress.bytes_resumed = resumed;
  return progress;
}

JobQuery MakeQuery(bool oldest_first, int page_size, const JobFilter& filter) {
  JobQuery query;
  query.tenant = "team";
  query.filter = filter;
  query.oldest_first = oldest_first;
  query.page_size = page_size;
  return query;
}

void StoreTest::SetUp() {
  home_ = GetParam().make();
  Reopen();
}

void StoreTest::Reopen() {
  store_.reset();
  auto opened = home_->Open([this] { return now(); });
  ASSERT_TRUE(opened.ok()) << opened.status();
  store_ = *std::move(opened);
}

NewJob StoreTest::MakeJob(const std::string& id, int priority) {
  NewJob job;
  job.key = {"team", id};
  job.request = std::string("proto\0bytes\xff", 12);
  job.spec.document = "method: average\n";
  job.spec.priority = priority;
  job.labels = {{"run", id}, {"team", "nlp"}};
  job.plan.digest = "digest";
  job.plan.method = "average";
  job.plan.output_uri = "s3://bucket/out";
  job.plan.memory_budget = 100;
  job.plan.inputs = {{"s3://bucket/a", 10, "e1"}, {"s3://bucket/b", 20, "e2"}};
  job.plan.stages = {"write"};
  return job;
}

Job StoreTest::Create(const NewJob& job) {
  auto created = store_->Create(job, 1'000'000);
  EXPECT_TRUE(created.ok()) << created.status();
  return created.ok() ? created->job : Job();
}

Job StoreTest::Get(const std::string& id) {
  auto job = store_->Get({"team", id});
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? *job : Job();
}

std::vector<JobEvent> StoreTest::Events(const std::string& id) {
  auto page = store_->Events({"team", id}, 0, 100'000);
  EXPECT_TRUE(page.ok()) << page.status();
  if (!page.ok()) return {};
  int64_t sequence = 0;
  for (const JobEvent& event : page->events) EXPECT_EQ(event.sequence, ++sequence);
  EXPECT_EQ(Get(id).sequence, sequence);
  return page->events;
}

std::vector<JobState> StoreTest::States(const std::string& id) {
  std::vector<JobState> states;
  for (const JobEvent& event : Events(id)) {
    if (const auto* change = std::get_if<StateChanged>(&event.what))
      states.push_back(change->state);
  }
  return states;
}

ClaimRequest StoreTest::AnyJob() {
  return {.worker = "w1", .devices = {"", "cpu"}, .free_memory = 1'000'000};
}

std::optional<ClaimedJob> StoreTest::Claim(const ClaimRequest& request) {
  auto claimed = store_->Claim(request);
  EXPECT_TRUE(claimed.ok()) << claimed.status();
  return claimed.ok() ? *claimed : std::nullopt;
}

Lease StoreTest::Run(const std::string& id) {
  Create(id);
  const std::optional<ClaimedJob> claimed = Claim();
  EXPECT_TRUE(claimed.has_value());
  if (!claimed) return {};
  EXPECT_EQ(claimed->job.key.id, id);
  return claimed->lease;
}

}  // namespace orthomerge
