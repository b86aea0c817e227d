// Lists: their order, their pages, and filters, which must find what a reader of the jobs would.
#include <gmock/gmock.h>

#include <algorithm>
#include <random>
#include <tuple>

#include "tests/jobs/store_fixture.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using Kind = JobFilter::Kind;
using Field = JobFilter::Field;
using Op = JobFilter::Op;

template <typename T>
bool Holds(Op op, const T& left, const T& right) {
  switch (op) {
    case Op::kEqual:
      return left == right;
    case Op::kNotEqual:
      return left != right;
    case Op::kLess:
      return left < right;
    case Op::kLessEqual:
      return left <= right;
    case Op::kGreater:
      return left > right;
    case Op::kGreaterEqual:
      return left >= right;
    case Op::kPresent:
      break;
  }
  return true;
}

// The meaning of a filter, on the job as Get gives it. What is missing is unequal to everything.
bool Matches(const JobFilter& filter, const Job& job) {
  switch (filter.kind) {
    case Kind::kAll:
      return true;
    case Kind::kNot:
      return !Matches(filter.operands.at(0), job);
    case Kind::kAnd:
      return std::all_of(filter.operands.begin(), filter.operands.end(),
                         [&](const JobFilter& operand) { return Matches(operand, job); });
    case Kind::kOr:
      return std::any_of(filter.operands.begin(), filter.operands.end(),
                         [&](const JobFilter& operand) { return Matches(operand, job); });
    case Kind::kCompare:
      break;
  }
  const auto text = [](absl::string_view view) { return std::string(view); };
  switch (filter.field) {
    case Field::kState:
      return Holds(filter.op, text(JobStateName(job.state)), filter.text);
    case Field::kMethod:
      return Holds(filter.op, job.plan.method, filter.text);
    case Field::kErrorReason:
      return Holds(filter.op, job.error ? text(ReasonName(job.error->reason)) : "", filter.text);
    case Field::kLabel: {
      const auto it = job.labels.find(filter.label);
      if (it == job.labels.end()) return filter.op == Op::kNotEqual;
      return Holds(filter.op, it->second, filter.text);
    }
    case Field::kPriority:
      return Holds(filter.op, static_cast<int64_t>(job.spec.priority), filter.number);
    case Field::kCreateTime:
      return Holds(filter.op, job.create_time, filter.time);
    case Field::kEndTime:
      if (!job.end_time) return filter.op == Op::kNotEqual;
      return Holds(filter.op, *job.end_time, filter.time);
  }
  return false;
}

class StoreList : public StoreTest {
 protected:
  std::vector<std::string> Page(const JobQuery& query, std::string* next) {
    const auto page = store_->List(query);
    EXPECT_TRUE(page.ok()) << page.status();
    std::vector<std::string> ids;
    if (!page.ok()) return ids;
    for (const Job& job : page->jobs) ids.push_back(job.key.id);
    *next = page->next;
    return ids;
  }

  std::vector<std::string> All(JobQuery query) {
    std::vector<std::string> ids;
    do {
      for (const std::string& id : Page(query, &query.after)) ids.push_back(id);
    } while (!query.after.empty() && ids.size() < 10'000);
    return ids;
  }

  std::vector<std::string> Filtered(const std::string& filter) {
    const auto parsed = ParseJobFilter(absl::string_view(filter.data(), filter.size()));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return All(MakeQuery(true, 50, *parsed));
  }
};
INSTANTIATE_TEST_SUITE_P(Stores, StoreList, testing::ValuesIn(StoreKinds()), KindName);

TEST_P(StoreList, NewestFirstInPagesThatHoldStill) {
  for (const char* id : {"b", "a"}) Create(id);  // at one time: ordered by id
  Advance(absl::Seconds(1));
  for (const char* id : {"d", "c", "e"}) Create(id);
  NewJob other = MakeJob("f");
  other.key.tenant = "other";
  Create(other);
  EXPECT_THAT(All(MakeQuery()), ElementsAre("e", "d", "c", "b", "a"));
  EXPECT_THAT(All(MakeQuery(true, 2)), ElementsAre("a", "b", "c", "d", "e"));
  JobQuery query = MakeQuery(false, 2);
  EXPECT_THAT(Page(query, &query.after), ElementsAre("e", "d"));
  Advance(absl::Seconds(1));
  Create("new");
  Reopen();
  EXPECT_THAT(Page(query, &query.after), ElementsAre("c", "b"));
  EXPECT_THAT(Page(query, &query.after), ElementsAre("a"));
  EXPECT_EQ(query.after, "");
  query.page_size = 6;
  EXPECT_EQ(Page(query, &query.after).size(), 6u);
  EXPECT_EQ(query.after, "") << "no token where nothing is left";
  query.page_size = -3;
  EXPECT_EQ(Page(query, &query.after).size(), 1u);
}

TEST_P(StoreList, RefusesTokensThatNoPageGave) {
  for (const char* id : {"a", "b", "c"}) Create(id);
  JobQuery query = MakeQuery(false, 1);
  Page(query, &query.after);
  const std::string token = query.after;
  EXPECT_THAT(token, testing::MatchesRegex("[A-Za-z0-9_-]+"));
  query.oldest_first = true;
  EXPECT_EQ(ReasonText(store_->List(query)), "INVALID_PAGE_TOKEN") << "of the other order";
  query.oldest_first = false;
  for (const std::string& bad :
       {std::string("x"), token + "A", token.substr(1), token + "=", " " + token, std::string("%%"),
        std::string("ZDoxMjM"), std::string("ZDp4OmE"), std::string(5000, 'A')}) {
    query.after = bad;
    EXPECT_EQ(ReasonText(store_->List(query)), "INVALID_PAGE_TOKEN") << bad;
  }
}

TEST_P(StoreList, LeavesLargePartsOut) {
  const Lease lease = Run("a");
  ASSERT_TRUE(store_->Succeed(lease, MakeResult()).ok());
  const auto page = store_->List(MakeQuery());
  ASSERT_TRUE(page.ok());
  const Job& job = page->jobs.at(0);
  EXPECT_TRUE(job.plan.inputs.empty());
  EXPECT_EQ(job.result->report_json, "");
  EXPECT_EQ(job.result->files, MakeResult().files);
  EXPECT_EQ(job.labels.at("team"), "nlp");
  EXPECT_EQ(job.attempts.size(), 1u);
  EXPECT_EQ(job.request, MakeJob("a").request);
}

TEST_P(StoreList, Filters) {
  ASSERT_TRUE(store_->Fail(Run("failed"), {Reason::kOutputExists, "", false}, {}).ok());
  Advance(absl::Seconds(10));
  ASSERT_TRUE(store_->Succeed(Run("done"), MakeResult()).ok());
  NewJob job = MakeJob("waits", 3);
  job.labels = {{"team", "x' OR 1=1 --"}};
  job.plan.method = "awd";
  Create(job);
  EXPECT_THAT(Filtered("state = FAILED"), ElementsAre("failed"));
  EXPECT_THAT(Filtered("state = FAILED OR state = QUEUED"), ElementsAre("failed", "waits"));
  EXPECT_THAT(Filtered("error.reason = OUTPUT_EXISTS"), ElementsAre("failed"));
  EXPECT_THAT(Filtered("method != average"), ElementsAre("waits"));
  EXPECT_THAT(Filtered("labels.run:*"), ElementsAre("failed", "done"));
  EXPECT_THAT(Filtered("NOT labels.run = done"), ElementsAre("failed", "waits"));
  EXPECT_THAT(Filtered("labels.team = \"x' OR 1=1 --\""), ElementsAre("waits"));
  EXPECT_THAT(Filtered("priority > 2"), ElementsAre("waits"));
  EXPECT_THAT(Filtered("end_time > 2000-01-01T00:00:00Z"), ElementsAre("failed", "done"));
  EXPECT_THAT(Filtered("create_time > 2023-11-14T22:13:20.000000001Z"),
              ElementsAre("done", "waits"));
}

class RandomFilters {
 public:
  explicit RandomFilters(absl::Time base) : base_(base) {}

  JobFilter Make(int depth) {
    JobFilter filter;
    switch (depth == 0 ? 9 : Pick(10)) {
      case 0:
        filter.kind = Kind::kNot;
        filter.operands = {Make(depth - 1)};
        return filter;
      case 1:
      case 2:
      case 3:
        filter.kind = Kind::kAnd;
        break;
      case 4:
      case 5:
        filter.kind = Kind::kOr;
        break;
      default:
        return Compare();
    }
    for (int i = 0; i < 2 + Pick(2); ++i) filter.operands.push_back(Make(depth - 1));
    return filter;
  }

  int Pick(int count) { return static_cast<int>(random_() % static_cast<unsigned>(count)); }

 private:
  JobFilter Compare() {
    static const char* const kReasons[] = {"OUTPUT_EXISTS", "WORKER_LOST", "", "x"};
    JobFilter filter;
    filter.kind = Kind::kCompare;
    filter.field = static_cast<Field>(Pick(7));
    filter.op = static_cast<Op>(Pick(2));
    switch (filter.field) {
      case Field::kState:
        filter.text = std::string(JobStateName(static_cast<JobState>(Pick(7))));
        break;
      case Field::kMethod:
        filter.text = Pick(2) == 0 ? "average" : "awd";
        break;
      case Field::kErrorReason:
        filter.text = kReasons[Pick(4)];
        break;
      case Field::kLabel:
        filter.label = std::string(1, static_cast<char>('a' + Pick(3)));
        if (Pick(4) == 0) {
          filter.op = Op::kPresent;
        } else {
          filter.text = std::to_string(Pick(3));
        }
        break;
      case Field::kPriority:
        filter.op = static_cast<Op>(Pick(6));
        filter.number = Pick(5) - 2;
        break;
      case Field::kCreateTime:
      case Field::kEndTime:
        filter.op = static_cast<Op>(Pick(6));
        filter.time = base_ + absl::Seconds(Pick(60)) + absl::Nanoseconds(Pick(3) - 1);
        break;
    }
    return filter;
  }

  const absl::Time base_;
  std::mt19937 random_{20240501};
};

TEST_P(StoreList, FiltersMeanWhatTheySay) {
  RandomFilters random(now());
  std::vector<Job> jobs;
  for (int i = 0; i < 60; ++i) {
    NewJob job = MakeJob("job" + std::to_string(i), random.Pick(5) - 2);
    job.plan.method = random.Pick(2) == 0 ? "average" : "awd";
    job.labels.clear();
    for (const char* name : {"a", "b", "c"}) {
      if (random.Pick(2) == 0) job.labels[name] = std::to_string(random.Pick(3));
    }
    Create(job);
    Advance(absl::Seconds(random.Pick(2)));
    const int fate = random.Pick(8);
    if (fate == 0) continue;
    if (fate == 1) {
      ASSERT_TRUE(store_->Cancel(job.key, {}, "").ok());
      continue;
    }
    ClaimRequest request = AnyJob();
    request.lease = absl::Hours(1);
    const auto claimed = Claim(request);
    ASSERT_TRUE(claimed.has_value());
    const Lease& lease = claimed->lease;
    const JobError error = {Reason::kOutputExists, "", false};
    if (fate == 2) {
      ASSERT_TRUE(store_->Cancel(lease.key, {}, "").ok());
    }
    if (fate == 3) {
      ASSERT_TRUE(store_->StartPublishing(lease).ok());
    }
    if (fate == 4) {
      ASSERT_TRUE(store_->Fail(lease, error, {}).ok());
    }
    if (fate == 5) {
      ASSERT_TRUE(store_->Fail(lease, error, absl::Hours(1)).ok());
    }
    if (fate == 6) {
      ASSERT_TRUE(store_->Succeed(lease, MakeResult()).ok());
    }
  }
  for (int i = 0; i < 60; ++i) jobs.push_back(Get("job" + std::to_string(i)));
  std::sort(jobs.begin(), jobs.end(), [](const Job& a, const Job& b) {
    return std::tie(a.create_time, a.key.id) < std::tie(b.create_time, b.key.id);
  });
  int found = 0;
  for (int i = 0; i < 1500; ++i) {
    const JobFilter filter = random.Make(3);
    std::vector<std::string> expected;
    for (const Job& job : jobs) {
      if (Matches(filter, job)) expected.push_back(job.key.id);
    }
    const bool oldest_first = random.Pick(2) == 0;
    if (!oldest_first) std::reverse(expected.begin(), expected.end());
    ASSERT_EQ(All(MakeQuery(oldest_first, 7, filter)), expected) << "filter " << i;
    found += static_cast<int>(expected.size());
  }
  EXPECT_GT(found, 1500);
}

}  // namespace
}  // namespace orthomerge
