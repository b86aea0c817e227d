#include "client/commands.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "client/result_file.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_server.h"
#include "tests/client/test_context.h"

namespace orthomerge::client {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr char kUuid[] = "3f2b8c1e-5d47-4c0a-9e61-7a0d5b1c2f38";

class Commands : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(testing::TempDir()) / "commands_test" / info->name();
    fs::remove_all(root_);
    fs::create_directories(root_);
    std::ofstream(root_ / "merge.yaml") << "method: awd\n";
    server_.create = [](int, const auto& request, v1::MergeJob* job) {
      const std::string& id = request.merge_job_id();
      *job = SomeJob(id.empty() ? "a" : id, v1::MergeJob::STATE_QUEUED);
      return grpc::Status::OK;
    };
    server_.get = [](int, const auto& request, v1::MergeJob* job) {
      *job = SomeJob(JobId(request.name()), v1::MergeJob::STATE_RUNNING);
      return grpc::Status::OK;
    };
    Ends({SucceededEvent(5)});
  }

  // What every watch gives behind a snapshot, two warnings (the same) and some progress.
  void Ends(const std::vector<v1::MergeJobEvent>& events) {
    server_.watch = [events](int, const auto&, grpc::ServerContext* context, EventWriter* writer) {
      writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_QUEUED)));
      writer->Write(StateEvent(2, v1::MergeJob::STATE_RUNNING));
      writer->Write(WarningEvent(3, "odd tensor"));
      writer->Write(WarningEvent(4, "odd tensor"));
      writer->Write(ProgressEvent(4, 30 << 20, 100 << 20));
      for (const auto& event : events) writer->Write(event);
      return events.empty() ? FakeServer::WaitForClient(context) : grpc::Status::OK;
    };
  }

  int Call(std::vector<std::string> arguments) {
    if (server_.port() == 0) server_.Start();
    arguments.insert(arguments.end(), {"--server", server_.address()});
    return context_.Call(arguments, root_);
  }

  std::string out() { return context_.out.str(); }
  std::string err() { return context_.err.str(); }

  fs::path root_;
  FakeServer server_;
  TestContext context_;
};

TEST_F(Commands, SubmitSendsWhatTheOptionsSay) {
  ASSERT_EQ(Call({"submit",
                  "merge.yaml",
                  "--out",
                  "merged/",
                  "--relative-to",
                  "models",
                  "--id",
                  "m-1",
                  "--request-id",
                  kUuid,
                  "--label",
                  "team=nlp",
                  "--label",
                  "x=",
                  "--priority",
                  "-5",
                  "--device",
                  "cuda:1",
                  "--memory-budget",
                  "4GiB",
                  "--max-attempts",
                  "2",
                  "--seed",
                  "7",
                  "--tenant",
                  "acme"}),
            0)
      << err();
  EXPECT_EQ(out(), "tenants/default/mergeJobs/m-1\n");
  const v1::CreateMergeJobRequest request = server_.creations().at(0);
  EXPECT_EQ(request.parent(), "tenants/acme");
  EXPECT_EQ(request.merge_job_id(), "m-1");
  EXPECT_EQ(request.request_id(), kUuid);
  EXPECT_FALSE(request.validate_only());
  const v1::MergeJobSpec& spec = request.merge_job().spec();
  EXPECT_EQ(spec.document().text(), "method: awd\n");
  EXPECT_EQ(spec.document().file_name(), "merge.yaml");
  EXPECT_EQ(spec.document().output_uri(), (root_ / "merged").string());
  EXPECT_EQ(spec.document().relative_to(), (root_ / "models").string());
  EXPECT_EQ(spec.document().seed(), 7u);
  EXPECT_EQ(spec.priority(), -5);
  EXPECT_EQ(spec.device(), "cuda:1");
  EXPECT_EQ(spec.memory_budget(), int64_t{4} << 30);
  EXPECT_EQ(spec.max_attempts(), 2);
  EXPECT_EQ(request.merge_job().labels().at("team"), "nlp");
  EXPECT_EQ(request.merge_job().labels().at("x"), "");
}

TEST_F(Commands, SubmitLeavesToTheServerWhatIsNotGiven) {
  context_.in.str("method: ties\n");
  context_.environment["ORTHOMERGE_REQUEST_ID"] = kUuid;
  ASSERT_EQ(Call({"submit", "-", "--out", "s3://models/merged"}), 0) << err();
  const v1::CreateMergeJobRequest request = server_.creations().at(0);
  EXPECT_EQ(request.request_id(), kUuid);
  const v1::MergeJobSpec& spec = request.merge_job().spec();
  EXPECT_EQ(spec.document().text(), "method: ties\n");
  EXPECT_EQ(spec.document().output_uri(), "s3://models/merged");
  EXPECT_FALSE(spec.document().has_seed());
  EXPECT_FALSE(spec.has_memory_budget());
  EXPECT_FALSE(spec.has_max_attempts());
  EXPECT_THAT(err(), HasSubstr(kUuid));
}

TEST_F(Commands, SubmitAndWaitForSuccess) {
  const std::string file = root_ / "result.json";
  context_.environment["ARGO_PROGRESS_FILE"] = root_ / "progress";
  ASSERT_EQ(Call({"submit", "merge.yaml", "--wait", "-o", "json", "--result-file", file}), 0);
  const auto result = context_.Result();
  EXPECT_EQ(result["ok"], true);
  EXPECT_EQ(result["job"], "tenants/default/mergeJobs/a");
  EXPECT_EQ(result["state"], "SUCCEEDED");
  EXPECT_EQ(result["error"], nullptr);
  EXPECT_EQ(result["exit_code"], 0);
  EXPECT_EQ(result["result"]["output_uri"], "s3://models/merged");
  EXPECT_EQ(result["result"]["files"][0]["size"], 3 << 20);
  EXPECT_EQ(result["result"]["report_json"]["nonfinite"], 0);
  EXPECT_THAT(result["warnings"], ElementsAre("odd tensor"));
  EXPECT_EQ(nlohmann::json::parse(std::ifstream(file)), result);
  std::string argo;
  std::getline(std::ifstream(root_ / "progress"), argo);
  EXPECT_EQ(argo, "100/100");
  // Warnings once; nothing of a terminal; progress as a line.
  EXPECT_EQ(err().find("odd tensor"), err().rfind("odd tensor"));
  EXPECT_THAT(err(), AllOf(HasSubstr("write: 30.0 MiB of 100.0 MiB (30%), 50 MiB/s"),
                           HasSubstr("running\n"), Not(HasSubstr("\x1b")), Not(HasSubstr("\r"))));

  ASSERT_EQ(Call({"submit", "merge.yaml", "--wait", "-q"}), 0);
  EXPECT_THAT(out(), AllOf(StartsWith("a: succeeded"), HasSubstr("s3://models/merged")));
  EXPECT_EQ(err(), "warning: odd tensor\n");
}

TEST_F(Commands, OnATerminalOneLineIsRedrawn) {
  context_.redraw = true;
  ASSERT_EQ(Call({"submit", "merge.yaml", "--wait"}), 0);
  EXPECT_THAT(err(), HasSubstr("\rwrite [=="));
  EXPECT_THAT(err(), HasSubstr("\x1b[K"));
}

TEST_F(Commands, AFailedJobIsExitCode3WhateverItsReason) {
  Ends({FailedEvent(5, Reason::kStorageUnavailable, "the bucket is gone")});
  const std::string file = root_ / "result.json";
  EXPECT_EQ(Call({"submit", "merge.yaml", "--wait", "-o", "json", "--result-file", file}), 3);
  const auto result = context_.Result();
  EXPECT_EQ(result["state"], "FAILED");
  EXPECT_EQ(result["error"]["reason"], "STORAGE_UNAVAILABLE");
  EXPECT_EQ(result["exit_code"], 3);
  EXPECT_EQ(nlohmann::json::parse(std::ifstream(file)), result);
  EXPECT_THAT(err(), HasSubstr("error: a failed: STORAGE_UNAVAILABLE: the bucket is gone\n"));
  EXPECT_EQ(Call({"watch", "a"}), 3);
}

TEST_F(Commands, ACancelledJobIsExitCode4) {
  Ends({StateEvent(5, v1::MergeJob::STATE_CANCELLED)});
  EXPECT_EQ(Call({"submit", "merge.yaml", "--wait", "-o", "json"}), 4);
  EXPECT_EQ(context_.Result()["state"], "CANCELLED");
  EXPECT_EQ(Call({"watch", "a"}), 4);
  EXPECT_EQ(err().substr(err().size() - 13), "a: cancelled\n");
}

TEST_F(Commands, TheTimeToWaitEndsWithExitCode5AndTheJobGoesOn) {
  Ends({});
  const std::string file = root_ / "result.json";
  EXPECT_EQ(Call({"submit", "merge.yaml", "--wait", "--wait-timeout", "0.3", "-o", "json",
                  "--result-file", file}),
            5);
  EXPECT_EQ(context_.Result()["state"], "RUNNING");
  EXPECT_EQ(context_.Result()["error"]["reason"], "DEADLINE_EXCEEDED");
  EXPECT_TRUE(fs::exists(file));
  EXPECT_THAT(err(), HasSubstr("'orthomerge watch a --server " + server_.address() + "'"));
  EXPECT_THAT(server_.cancellations(), IsEmpty());
  EXPECT_EQ(Call({"watch", "a", "--wait-timeout", "300ms"}), 5);
}

TEST_F(Commands, WithoutAServerExitCode6AndWhatToDo) {
  server_.Start();
  server_.Stop();
  const std::string file = root_ / "result.json";
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"submit", "merge.yaml", "--connect-timeout", "0.3", "--result-file", file},
           {"get", "a"},
           {"watch", "a"},
           {"list"},
           {"plan", "merge.yaml"},
           {"server-info"}}) {
    EXPECT_EQ(Call(arguments), 6) << arguments[0];
    EXPECT_THAT(err(), AllOf(HasSubstr("no server can be reached at " + server_.address()),
                             HasSubstr("orthomerged serve"), HasSubstr("ORTHOMERGE_SERVER")));
  }
  const auto result = nlohmann::json::parse(std::ifstream(file));
  EXPECT_EQ(result["error"]["reason"], "SERVER_UNAVAILABLE");
  EXPECT_EQ(result["job"], nullptr);
  EXPECT_EQ(Call({"list", "-o", "json"}), 6);
  EXPECT_EQ(context_.Result()["exit_code"], 6);
}

TEST_F(Commands, SubmitWaitsForAServerThatStarts) {
  server_.Start();
  const int port = server_.port();
  server_.Stop();
  std::thread starter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    server_.Start(port);
  });
  EXPECT_EQ(Call({"submit", "merge.yaml"}), 0) << err();
  starter.join();
}

TEST_F(Commands, RefusalsHaveTheirExitCodesAndAllTheirFaults) {
  const std::vector<std::pair<Reason, int>> cases = {
      {Reason::kUnknownMethod, 2}, {Reason::kOutputExists, 3}, {Reason::kUnauthenticated, 7},
      {Reason::kUriNotAllowed, 7}, {Reason::kQueueFull, 8},    {Reason::kInternal, 1}};
  Reason reason = Reason::kInternal;
  server_.create = [&](int, const auto&, v1::MergeJob*) {
    return ServiceError(reason, "2 faults",
                        {{"spec.document", "merge.yaml:1:9: unknown method"},
                         {"labels", "the key 'X' is not in lower case"}});
  };
  for (const auto& [refusal, code] : cases) {
    reason = refusal;
    EXPECT_EQ(Call({"submit", "merge.yaml", "-o", "json"}), code) << ReasonName(refusal);
    EXPECT_THAT(err(), StartsWith("error: 2 faults\n"
                                  "  spec.document: merge.yaml:1:9: unknown method\n"
                                  "  labels: the key 'X' is not in lower case\n"));
    EXPECT_EQ(context_.Result()["error"]["reason"], std::string(ReasonName(refusal)));
    EXPECT_EQ(context_.Result()["diagnostics"].size(), 2u);
  }
}

TEST_F(Commands, RelativePathsGetAHint) {
  server_.create = [](int, const auto&, v1::MergeJob*) {
    return ServiceError(Reason::kUriNotAllowed, "'models/a' is relative; set relative_to");
  };
  EXPECT_EQ(Call({"submit", "merge.yaml"}), 7);
  EXPECT_THAT(err(), HasSubstr("hint: --relative-to DIR"));
}

TEST_F(Commands, MistakesOfTheLineAreExitCode2AndReachNoServer) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"submit"},
           {"submit", "merge.yaml", "--label", "team"},
           {"submit", "merge.yaml", "--label", "a=1", "--label", "a=2"},
           {"submit", "merge.yaml", "--priority", "101"},
           {"submit", "merge.yaml", "--max-attempts", "0"},
           {"submit", "merge.yaml", "--request-id", "7"},
           {"submit", "merge.yaml", "--wait", "--wait-timeout", "soon"},
           {"submit", "merge.yaml", "--wait-timeout", "1h"},
           {"submit", "merge.yaml", "--wait", "--validate-only"},
           {"submit", "merge.yaml", "--memory-budget", "much"},
           {"submit", "merge.yaml", "-o", "xml"},
           {"submit", "."},
           {"submit", "merge.yaml", "--result-file", "no/such/folder/result.json"},
           {"submit", "merge.yaml", "--tenant", "A/B"},
           {"list", "--all", "--limit", "5"},
           {"list", "--limit", "0"},
           {"get"},
           {"get", "a", "b"},
           {"get", ""},
           {"cancel", "a", "--wait-timeout", "5"},
           {"plan", "merge.yaml", "--local"},
           {"watch", "a", "--evnts"}}) {
    EXPECT_EQ(Call(arguments), 2) << testing::PrintToString(arguments);
    EXPECT_THAT(err(), StartsWith("error: ")) << testing::PrintToString(arguments);
  }
  EXPECT_THAT(err(), HasSubstr("did you mean '--events'?"));
  EXPECT_THAT(server_.tokens(), IsEmpty());
  EXPECT_EQ(Call({"submit", "missing.yaml"}), 3);
  std::ofstream(root_ / "large.yaml") << std::string((512 << 10) + 1, '#');
  EXPECT_EQ(Call({"submit", "large.yaml", "-o", "json"}), 2);
  EXPECT_EQ(context_.Result()["error"]["reason"], "SPEC_TOO_LARGE");
}

TEST_F(Commands, InterruptedWaitsDetach) {
  server_.watch = [&](int, const auto&, grpc::ServerContext* call, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
    context_.signal = 15;
    context_.cancellation.Cancel();
    return FakeServer::WaitForClient(call);
  };
  EXPECT_EQ(Call({"submit", "merge.yaml", "--wait", "-o", "json"}), 143);
  EXPECT_EQ(context_.Result()["exit_code"], 143);
  EXPECT_THAT(err(), HasSubstr("a: interrupted; the job goes on\nhint: 'orthomerge watch a"));
  EXPECT_THAT(server_.cancellations(), IsEmpty());
}

TEST_F(Commands, CancelOnExitCancels) {
  server_.watch = [&](int, const auto&, grpc::ServerContext* call, EventWriter* writer) {
    writer->Write(Snapshot(1, SomeJob("a", v1::MergeJob::STATE_RUNNING)));
    context_.signal = 2;
    context_.cancellation.Cancel();
    return FakeServer::WaitForClient(call);
  };
  server_.cancel = [](const auto&, v1::MergeJob* job) {
    *job = SomeJob("a", v1::MergeJob::STATE_CANCELLING);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Call({"submit", "merge.yaml", "--wait", "--cancel-on-exit"}), 130);
  ASSERT_EQ(server_.cancellations().size(), 1u);
  EXPECT_EQ(server_.cancellations()[0].name(), "tenants/default/mergeJobs/a");
  EXPECT_THAT(err(), HasSubstr("interrupted; the job is cancelled"));
}

TEST_F(Commands, ValidateOnlyMakesNoJob) {
  ASSERT_EQ(Call({"submit", "merge.yaml", "--validate-only"}), 0);
  EXPECT_TRUE(server_.creations().at(0).validate_only());
  EXPECT_EQ(out(), "valid; the output would be s3://models/merged\n");
}

TEST_F(Commands, WatchGivesEventsAsLines) {
  ASSERT_EQ(Call({"watch", "a", "-o", "json"}), 0);
  std::istringstream lines(out());
  std::vector<int64_t> durable;
  std::string line;
  while (std::getline(lines, line)) {
    const auto event = nlohmann::json::parse(line);
    if (!event.contains("progress")) durable.push_back(event["sequence"].get<int64_t>());
    EXPECT_TRUE(event.contains("resume_token"));
  }
  EXPECT_THAT(durable, ElementsAre(1, 2, 3, 4, 5));
  ASSERT_EQ(Call({"watch", "a", "--events"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("3 warning odd tensor\n"),
                           HasSubstr("5 state SUCCEEDED, attempt 1\n")));
  EXPECT_EQ(err(), "");
}

TEST_F(Commands, WatchOfAnUnknownJobEndsAtOnce) {
  server_.get = [](int, const auto&, v1::MergeJob*) {
    return ServiceError(Reason::kJobNotFound, "there is no job 'b'");
  };
  EXPECT_EQ(Call({"watch", "b"}), 2);
  EXPECT_EQ(err(), "error: there is no job 'b'\n");
}

TEST_F(Commands, GetShowsAJobInEachFormat) {
  ASSERT_EQ(Call({"get", "tenants/default/mergeJobs/b"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("Job      tenants/default/mergeJobs/b\n"),
                           HasSubstr("State    RUNNING\n"), HasSubstr("2023-11-14 22:13:20 UTC")));
  ASSERT_EQ(Call({"get", "b", "-o", "json", "--tenant", "acme"}), 0);
  EXPECT_EQ(context_.Result()["state"], "RUNNING");
  EXPECT_EQ(context_.Result()["create_time"], "2023-11-14T22:13:20+00:00");
  EXPECT_EQ(context_.Result()["plan"]["bytes_total"], 0);
  ASSERT_EQ(Call({"get", "b", "-o", "yaml"}), 0);
  EXPECT_THAT(out(), AllOf(StartsWith("ok: true\nname: tenants/default/mergeJobs/b\n"),
                           HasSubstr("\nplan:\n  digest: \"\"\n  method: awd\n"),
                           HasSubstr("\n  output_uri: \"s3://models/merged\"\n"),
                           HasSubstr("\n  inputs: []\n")));
}

TEST_F(Commands, ListGoesThroughThePages) {
  std::vector<std::string> tokens;
  server_.list = [&](const auto& request, v1::ListMergeJobsResponse* response) {
    tokens.push_back(request.page_token());
    EXPECT_EQ(request.filter(), "state = RUNNING");
    const int start = request.page_token().empty() ? 0 : std::stoi(request.page_token());
    for (int i = start; i < std::min(start + request.page_size(), start + 2); ++i) {
      *response->add_merge_jobs() =
          SomeJob("job-" + std::to_string(i), v1::MergeJob::STATE_RUNNING);
    }
    const int next = start + response->merge_jobs_size();
    if (next < 5) response->set_next_page_token(std::to_string(next));
    return grpc::Status::OK;
  };
  const std::vector<std::string> filter = {"--filter", "state = RUNNING"};
  ASSERT_EQ(Call({"list", filter[0], filter[1], "--all", "-o", "json"}), 0);
  EXPECT_EQ(context_.Result()["jobs"].size(), 6u);
  EXPECT_EQ(context_.Result()["more"], false);
  EXPECT_THAT(tokens, ElementsAre("", "2", "4"));
  ASSERT_EQ(Call({"list", filter[0], filter[1], "--limit", "3"}), 0);
  EXPECT_THAT(out(),
              AllOf(StartsWith("JOB    STATE"), HasSubstr("job-2"), Not(HasSubstr("job-3"))));
  EXPECT_THAT(err(), HasSubstr("--all"));
}

TEST_F(Commands, CancelAndWait) {
  server_.cancel = [](const auto& request, v1::MergeJob* job) {
    EXPECT_EQ(request.reason(), "wrong base");
    *job = SomeJob("a", v1::MergeJob::STATE_CANCELLING);
    return grpc::Status::OK;
  };
  ASSERT_EQ(Call({"cancel", "a", "--reason", "wrong base"}), 0);
  EXPECT_EQ(out(), "a: cancelling\n");
  Ends({StateEvent(5, v1::MergeJob::STATE_CANCELLED)});
  ASSERT_EQ(Call({"cancel", "a", "--reason", "wrong base", "--wait", "-o", "json"}), 0);
  EXPECT_EQ(context_.Result()["state"], "CANCELLED");
  Ends({SucceededEvent(5)});
  EXPECT_EQ(Call({"cancel", "a", "--reason", "wrong base", "--wait"}), 2);
  EXPECT_THAT(err(), HasSubstr("too late, the job succeeded"));
}

TEST_F(Commands, DeleteForgets) {
  server_.remove = [](int call, const auto&) {
    return call == 1 ? grpc::Status::OK
                     : ServiceError(Reason::kJobNotFinal, "a is RUNNING; cancel it first");
  };
  EXPECT_EQ(Call({"delete", "a", "-o", "json"}), 0);
  EXPECT_EQ(context_.Result()["deleted"], true);
  EXPECT_EQ(Call({"delete", "a"}), 2);
  EXPECT_EQ(err(), "error: a is RUNNING; cancel it first\n");
}

TEST_F(Commands, PlanOfAServer) {
  server_.plan = [](const auto& request, v1::PlanResponse* response) {
    EXPECT_EQ(request.spec().document().text(), "method: awd\n");
    response->set_plan_text("Passes  2\n");
    response->set_plan_json(R"({"passes": 2})");
    response->mutable_plan()->add_warnings("norms are small");
    return grpc::Status::OK;
  };
  ASSERT_EQ(Call({"plan", "merge.yaml"}), 0);
  EXPECT_EQ(out(), "Passes  2\n");
  EXPECT_EQ(err(), "warning: norms are small\n");
  ASSERT_EQ(Call({"plan", "merge.yaml", "-o", "json"}), 0);
  EXPECT_EQ(context_.Result(), nlohmann::json::parse(R"({"passes": 2, "ok": true})"));
}

TEST_F(Commands, MethodsAndInfoOfAServer) {
  server_.methods = [](v1::ListMethodsResponse* response) {
    auto* method = response->add_methods();
    method->set_name("ties");
    method->set_min_models(1);
    auto* parameter = method->add_parameters();
    parameter->set_name("density");
    parameter->set_help("share that is kept");
    return grpc::Status::OK;
  };
  server_.info = [](v1::ServerInfo* info) {
    info->set_version("0.2.0");
    info->add_devices("cpu");
    info->add_devices("cuda:0");
    return grpc::Status::OK;
  };
  ASSERT_EQ(Call({"methods"}), 0);
  EXPECT_THAT(out(), HasSubstr("ties  optional  1 or more"));
  ASSERT_EQ(Call({"methods", "ties"}), 0);
  EXPECT_THAT(out(), HasSubstr("share that is kept"));
  EXPECT_EQ(Call({"methods", "tise"}), 2);
  EXPECT_THAT(err(), HasSubstr("did you mean 'ties'?"));
  ASSERT_EQ(Call({"server-info"}), 0);
  EXPECT_THAT(out(), HasSubstr("cpu, cuda:0"));
  ASSERT_EQ(Call({"server-info", "-o", "json"}), 0);
  EXPECT_EQ(context_.Result()["devices"].size(), 2u);
}

TEST_F(Commands, EveryCommandHasHelpWithExamples) {
  for (const std::string& command : RemoteCommandNames()) {
    EXPECT_EQ(context_.Call({command, "--help"}), 0);
    EXPECT_THAT(out(), AllOf(HasSubstr("Examples:\n  orthomerge " + command), HasSubstr("--server"),
                             EndsWith("\n")));
  }
}

TEST_F(Commands, TheEnvironmentNamesServerAndTenant) {
  server_.Start();
  context_.environment = {{"ORTHOMERGE_SERVER", server_.address()},
                          {"ORTHOMERGE_TENANT", "acme"},
                          {"ORTHOMERGE_TOKEN", "secret"}};
  std::string name;
  server_.get = [&](int, const auto& request, v1::MergeJob* job) {
    name = request.name();
    *job = SomeJob("a", v1::MergeJob::STATE_RUNNING);
    return grpc::Status::OK;
  };
  EXPECT_EQ(context_.Call({"get", "a"}), 0) << err();
  EXPECT_EQ(name, "tenants/acme/mergeJobs/a");
  EXPECT_THAT(server_.tokens(), ElementsAre("Bearer secret"));
}

TEST_F(Commands, ResultFilesAreReplacedAtOnceOrWrittenInPlace) {
  const fs::path file = root_ / "result.json";
  std::ofstream(file) << "old and rather longer than the new one";
  ASSERT_TRUE(WriteFileAtOnce(file, "new").ok());
  std::string text;
  std::getline(std::ifstream(file), text);
  EXPECT_EQ(text, "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 2);
  EXPECT_TRUE(WriteFileAtOnce("/dev/null", "new").ok());
  EXPECT_FALSE(fs::is_regular_file("/dev/null"));
  EXPECT_FALSE(WriteFileAtOnce(root_ / "no" / "file", "new").ok());
}

}  // namespace
}  // namespace orthomerge::client
