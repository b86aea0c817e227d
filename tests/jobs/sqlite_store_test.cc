// What is SQLite's own: the file, its neighbours, kills, and that no request reads the whole table.
#include "core/jobs/sqlite_store.h"

#include <gmock/gmock.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "core/jobs/sqlite_database.h"
#include "tests/jobs/store_fixture.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;

NewJob MakeJob(const std::string& id) {
  NewJob job;
  job.key = {"team", id};
  job.spec.document = "method: average";
  job.labels = {{"run", id}, {"team", "nlp"}};
  job.plan.method = "average";
  return job;
}

ClaimRequest AnyJob() { return {.worker = "w", .devices = {"", "cpu"}, .free_memory = 1}; }

class SqliteStoreTest : public testing::Test {
 protected:
  ~SqliteStoreTest() override { std::filesystem::remove_all(folder_); }

  std::string OpenError(const std::string& path) {
    const auto store = OpenSqliteStore(path);
    EXPECT_FALSE(store.ok());
    return ReasonText(store.status()) + ": " + std::string(store.status().message());
  }

  // One value of the file, past the store.
  std::string Ask(const std::string& sql) {
    auto database = SqliteDatabase::Open(path_);
    EXPECT_TRUE(database.ok()) << database.status();
    auto query = (*database)->PrepareOnce(sql);
    EXPECT_TRUE(query.ok()) << query.status();
    EXPECT_TRUE(query->Step().ok());
    return query->Text(0);
  }

  const std::string folder_ = MakeFolder();
  const std::string path_ = folder_ + "/jobs.db";
};

mode_t ModeOf(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 0777;
}

TEST_F(SqliteStoreTest, FilesAreTheOwnersAlone) {
  const mode_t before = umask(0);
  const std::string path = folder_ + "/state/deep/jobs.db";
  const auto store = OpenSqliteStore(path);
  umask(before);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)->Create(MakeJob("a"), 10).ok());
  EXPECT_EQ(ModeOf(folder_ + "/state"), 0700u);
  EXPECT_EQ(ModeOf(folder_ + "/state/deep"), 0700u);
  for (const char* suffix : {"", "-wal", "-shm", ".lock"}) EXPECT_EQ(ModeOf(path + suffix), 0600u);
}

TEST_F(SqliteStoreTest, OneServerAtATime) {
  auto store = OpenSqliteStore(path_);
  ASSERT_TRUE(store.ok());
  EXPECT_THAT(OpenError(path_), HasSubstr("USAGE: another server uses this database"));
  store->reset();
  EXPECT_TRUE(OpenSqliteStore(path_).ok());
}

TEST_F(SqliteStoreTest, RefusesFilesThatAreNotItsOwn) {
  EXPECT_THAT(OpenError(""), HasSubstr("USAGE"));
  EXPECT_THAT(OpenError(folder_ + "/"), HasSubstr("no file name"));
  std::ofstream(path_) << std::string(10000, 'x');
  EXPECT_THAT(OpenError(path_), testing::AllOf(HasSubstr("INTERNAL"), HasSubstr(path_),
                                               HasSubstr("damaged or no job database")));
  std::filesystem::remove(path_);
  EXPECT_EQ(Ask("CREATE TABLE foreign_data (x)"), "");
  EXPECT_THAT(OpenError(path_), HasSubstr("USAGE: " + path_ + " is a database of something else"));
}

TEST_F(SqliteStoreTest, RefusesASchemaOfTheFuture) {
  ASSERT_TRUE(OpenSqliteStore(path_).ok());
  EXPECT_EQ(Ask("PRAGMA user_version"), "2");
  Ask("PRAGMA user_version = 9");
  EXPECT_THAT(OpenError(path_), testing::AllOf(HasSubstr("USAGE"), HasSubstr("schema version 9"),
                                               HasSubstr("start the newer program")));
}

// Jobs that an earlier version made: what it did not note is filled in.
TEST_F(SqliteStoreTest, TakesOverTheFirstSchema) {
  NewJob job = MakeJob("a");
  job.plan.digest = "digest";
  job.plan.output_uri = "s3://bucket/out";
  {
    auto store = OpenSqliteStore(path_);
    ASSERT_TRUE(store.ok());
    ASSERT_TRUE((*store)->Create(job, 10).ok());
    ASSERT_TRUE((*store)->Create(MakeJob("b"), 10).ok());
  }
  for (const char* undo :
       {"DROP INDEX job_blocked", "DROP INDEX job_work_area", "ALTER TABLE job DROP COLUMN blocked",
        "ALTER TABLE job DROP COLUMN work_area", "PRAGMA user_version = 1"}) {
    Ask(undo);
  }
  auto store = OpenSqliteStore(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Get(job.key)->plan, job.plan);
  EXPECT_EQ((*store)->Get(job.key)->blocked, "");
  store->reset();
  EXPECT_EQ(Ask("SELECT work_area FROM job WHERE id = 'a'"), "digest s3://bucket/out");
  EXPECT_EQ(Ask("SELECT work_area FROM job WHERE id = 'b'"), "");
  EXPECT_EQ(Ask("PRAGMA user_version"), "2");
}

TEST_F(SqliteStoreTest, DamagedFileIsNamed) {
  {
    auto store = OpenSqliteStore(path_);
    ASSERT_TRUE(store.ok());
    for (int i = 0; i < 200; ++i)
      ASSERT_TRUE((*store)->Create(MakeJob(std::to_string(i)), 1000).ok());
  }
  const auto size = std::filesystem::file_size(path_);
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096);
  file << std::string(size - 4096, '\xA5');
  file.close();
  const auto store = OpenSqliteStore(path_);
  const absl::Status status = store.ok() ? (*store)->Get({"team", "1"}).status() : store.status();
  EXPECT_EQ(ReasonText(status), "INTERNAL");
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
}

TEST_F(SqliteStoreTest, FullDiskChangesNothingAndPasses) {
  auto store = OpenSqliteStore(path_);
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE((*store)->Create(MakeJob("a"), 10).ok());
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {std::filesystem::file_size(path_ + "-wal"), before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const auto refused = (*store)->Create(MakeJob("b"), 10);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(ReasonText(refused), "SERVER_UNAVAILABLE");
  EXPECT_EQ(ReasonText((*store)->Get({"team", "b"})), "JOB_NOT_FOUND");
  EXPECT_TRUE((*store)->Create(MakeJob("b"), 10).ok());
}

// Makes and moves jobs, and says so after each step is acknowledged.
[[noreturn]] void WriteUntilKilled(const std::string& path, int round, int pipe) {
  auto store = OpenSqliteStore(path);
  if (!store.ok()) _exit(1);
  for (int i = 0;; ++i) {
    const std::string id = std::to_string(round) + "-" + std::to_string(i);
    const auto tell = [&](char step) {
      const std::string line = std::string(1, step) + id + "\n";
      if (write(pipe, line.data(), line.size()) < 0) _exit(1);
    };
    if (!(*store)->Create(MakeJob(id), 1'000'000).ok()) _exit(1);
    tell('q');
    const auto claimed = (*store)->Claim(AnyJob());
    if (!claimed.ok() || !claimed->has_value() || (*claimed)->job.key.id != id) _exit(1);
    tell('r');
    if (i % 3 == 0) continue;
    if (!(*store)->StartPublishing((*claimed)->lease).ok()) _exit(1);
    tell('p');
    if (!(*store)->Succeed((*claimed)->lease, MakeResult()).ok()) _exit(1);
    tell('s');
  }
}

TEST_F(SqliteStoreTest, AcknowledgedChangesSurviveKills) {
  std::mt19937 random(7);
  std::map<std::string, JobState> acknowledged;
  for (int round = 0; round < 30; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      WriteUntilKilled(path_, round, ends[1]);
    }
    close(ends[1]);
    // The moment is chosen by what the child has done, so that a slow machine kills as early.
    std::string told;
    const size_t enough = random() % 1000;
    char buffer[4096];
    ssize_t got = 0;
    while (told.size() < enough && (got = read(ends[0], buffer, sizeof buffer)) > 0) {
      told.append(buffer, static_cast<size_t>(got));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    kill(child, SIGKILL);
    while ((got = read(ends[0], buffer, sizeof buffer)) > 0) {
      told.append(buffer, static_cast<size_t>(got));
    }
    close(ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child gave up";
    for (size_t at = 0; at < told.size();) {
      const size_t end = told.find('\n', at);
      const std::string id = told.substr(at + 1, end - at - 1);
      const char step = told[at];
      acknowledged[id] = step == 'q'   ? JobState::kQueued
                         : step == 'r' ? JobState::kRunning
                         : step == 'p' ? JobState::kPublishing
                                       : JobState::kSucceeded;
      at = end + 1;
    }
    EXPECT_EQ(Ask("PRAGMA integrity_check"), "ok");
    auto store = OpenSqliteStore(path_);
    ASSERT_TRUE(store.ok()) << store.status();
    for (const auto& [id, state] : acknowledged) {
      const auto job = (*store)->Get({"team", id});
      ASSERT_TRUE(job.ok()) << id << ": " << job.status();
      EXPECT_GE(job->state, state) << id;  // what was not acknowledged may be there too
      const auto events = (*store)->Events({"team", id}, 0, 100);
      ASSERT_TRUE(events.ok());
      EXPECT_EQ(static_cast<int64_t>(events->events.size()), job->sequence);
      EXPECT_EQ(std::get<StateChanged>(events->events.back().what).state, job->state);
    }
    // As a server does it; the next child must find nothing queued.
    ASSERT_TRUE((*store)->ReapAll({}).ok());
    while (true) {
      const auto claimed = (*store)->Claim(AnyJob());
      ASSERT_TRUE(claimed.ok());
      if (!claimed->has_value()) break;
      ASSERT_TRUE((*store)->Succeed((*claimed)->lease, {}).ok());
      acknowledged[(*claimed)->job.key.id] = JobState::kSucceeded;
    }
  }
  EXPECT_GT(acknowledged.size(), 100u);
}

// The statements that connections opened from now on run, with their values.
class StatementLog {
 public:
  StatementLog() {
    statements().clear();
    sqlite3_auto_extension(reinterpret_cast<void (*)()>(Install));
  }
  ~StatementLog() { sqlite3_reset_auto_extension(); }
  static std::vector<std::string>& statements() {
    static std::vector<std::string> all;
    return all;
  }

 private:
  static int Install(sqlite3* database, const char**, const void*) {
    return sqlite3_trace_v2(database, SQLITE_TRACE_STMT, Log, nullptr);
  }
  static int Log(unsigned, void*, void* statement, void*) {
    char* text = sqlite3_expanded_sql(static_cast<sqlite3_stmt*>(statement));
    statements().emplace_back(text);
    sqlite3_free(text);
    return 0;
  }
};

// SQLite plans without statistics here, so the plans do not depend on the number of rows.
TEST_F(SqliteStoreTest, EveryRequestGoesByAnIndex) {
  std::vector<std::string> statements;
  {
    const StatementLog log;
    auto opened = OpenSqliteStore(path_);
    ASSERT_TRUE(opened.ok());
    JobStore& store = **opened;
    StatementLog::statements().clear();
    NewJob job = MakeJob("a");
    job.request_id = "r";
    ASSERT_TRUE(store.Create(job, 100).ok());
    ASSERT_TRUE(store.Create(MakeJob("b"), 100).ok());
    ASSERT_TRUE(store.Get(job.key).ok());
    for (const char* filter :
         {"", "state = RUNNING", "state = QUEUED OR state = RUNNING", "labels.team = nlp",
          "labels.team = nlp AND state = FAILED", "NOT labels.team:* AND method != awd",
          "create_time > 2026-01-01T00:00:00Z AND error.reason = WORKER_LOST"}) {
      JobQuery query = MakeQuery(false, 1, *ParseJobFilter(filter));
      const auto page = store.List(query);
      ASSERT_TRUE(page.ok()) << page.status();
      query.after = "ZDoxNzAwMDAwMDAwMDAwMDAwOmE";
      ASSERT_TRUE(store.List(query).ok());
      query.after.clear();
      query.oldest_first = true;
      ASSERT_TRUE(store.List(query).ok());
    }
    auto claimed = store.Claim(AnyJob());
    ASSERT_TRUE(claimed.ok() && claimed->has_value());
    const Lease lease = (*claimed)->lease;
    ASSERT_TRUE(store.Renew(lease, absl::Seconds(9), MakeProgress("write", 1)).ok());
    ASSERT_TRUE(store.AddWarning(lease, "w").ok());
    ASSERT_TRUE(store.Release(lease).ok());
    claimed = store.Claim(AnyJob());
    ASSERT_TRUE(store.StartPublishing((*claimed)->lease).ok());
    ASSERT_TRUE(store.Reap({}).ok());
    ASSERT_TRUE(store.Succeed((*claimed)->lease, MakeResult()).ok());
    ASSERT_TRUE(store.ReapAll({}).ok());
    ASSERT_TRUE(store.Cancel({"team", "b"}, {}, "").ok());
    ASSERT_TRUE(store.Events({"team", "b"}, 0, 10).ok());
    ASSERT_TRUE(store.Counts().ok());
    ASSERT_TRUE(store.MarkBlocked({{"cuda:0"}, 1}).ok());
    ASSERT_TRUE(store.SharesWorkArea({"team", "a"}).ok());
    ASSERT_TRUE(store.Delete({"team", "a"}, {}).ok());
    statements = StatementLog::statements();
  }
  auto database = SqliteDatabase::Open(path_);
  ASSERT_TRUE(database.ok());
  int explained = 0;
  for (const std::string& statement : statements) {
    if (statement.compare(0, 2, "--") == 0) continue;  // of a foreign key
    auto query = (*database)->PrepareOnce("EXPLAIN QUERY PLAN " + statement);
    ASSERT_TRUE(query.ok()) << statement << query.status();
    while (*query->Step()) {
      const std::string line = query->Text(3);
      EXPECT_THAT(line, testing::Not(HasSubstr("TEMP B-TREE"))) << statement;
      // These hold the queue, what is not final, and a count: small, or never read in full.
      if (line.compare(0, 4, "SCAN") == 0) {
        EXPECT_THAT(line, testing::AnyOf(HasSubstr("COVERING INDEX job_claimable"),
                                         HasSubstr("COVERING INDEX job_blocked"),
                                         HasSubstr("COVERING INDEX job_unfinished"),
                                         HasSubstr("COVERING INDEX job_count"),
                                         HasSubstr("json_each VIRTUAL TABLE")))
            << statement;
      }
      ++explained;
    }
  }
  EXPECT_GT(explained, 60);
}

}  // namespace
}  // namespace orthomerge
