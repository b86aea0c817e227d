#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/digest.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/authenticator.h"
#include "server/token_file.h"
#include "test_context.h"
#include "test_service.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;
using testing::Not;

class TokenTest : public testing::Test {
 protected:
  TokenTest() { SetLogLevel(LogLevel::kError); }
  ~TokenTest() override { SetLogLevel(LogLevel::kInfo); }

  void Write(const std::string& text) { WriteText(path_, text); }

  void Serve() {
    auto authenticator = MakeTokenAuthenticator(path_, false);
    ASSERT_TRUE(authenticator.ok()) << authenticator.status();
    authenticator_ = *std::move(authenticator);
    service_ = std::make_unique<StubService>(authenticator_.get());
    auto server = Server::Start(LocalConfig(), {.service = service_.get(), .metrics = &metrics_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = ChannelTo(server_->address());
  }

  // "NAME of TENANT", or the code's number.
  std::string Caller(const std::vector<std::string>& authorization) {
    const InfoAnswer answer = AskInfo(channel_, authorization);
    return answer.status.ok() ? answer.version : absl::StrCat(answer.status.error_code());
  }

  // Asks until the answer is `expected`, for what takes effect within a second.
  std::string CallerAtLast(const std::string& authorization, const std::string& expected) {
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (absl::Now() < end && Caller({authorization}) != expected) {
      absl::SleepFor(absl::Milliseconds(50));
    }
    return Caller({authorization});
  }

  const std::string path_ = FreshFolder() + "/tokens";
  Metrics metrics_;
  std::unique_ptr<Authenticator> authenticator_;
  std::unique_ptr<StubService> service_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

constexpr char kRefused[] = "16";

TEST_F(TokenTest, OnlyKnownTokensComeIn) {
  Write(absl::StrCat("# who\n\n", Sha256Hex("alpha"), " ann team-a\r\n", Sha256Hex("beta"),
                     "\tbob\n"));
  Serve();
  EXPECT_EQ(Caller({"Bearer alpha"}), "ann of team-a");
  EXPECT_EQ(Caller({"bearer beta"}), "bob of default");
  EXPECT_EQ(Caller({}), kRefused);
  EXPECT_EQ(Caller({"Bearer gamma"}), kRefused);
  EXPECT_EQ(Caller({"Bearer " + Sha256Hex("alpha")}), kRefused);
  EXPECT_EQ(Caller({"Bearer "}), kRefused);
  EXPECT_EQ(Caller({"Basic alpha"}), kRefused);
  EXPECT_EQ(Caller({"alpha"}), kRefused);
  EXPECT_EQ(Caller({"Bearer alpha", "Bearer beta"}), kRefused);
}

TEST_F(TokenTest, TheAnswerDoesNotRepeatTheToken) {
  Write("");
  Serve();
  const InfoAnswer answer = AskInfo(channel_, {"Bearer sesame"});
  EXPECT_THAT(answer.status.error_message(), HasSubstr("authorization: Bearer TOKEN"));
  EXPECT_THAT(answer.status.error_message(), Not(HasSubstr("sesame")));
}

TEST_F(TokenTest, AChangedFileCounts) {
  Write(Sha256Hex("alpha") + " ann\n");
  Serve();
  EXPECT_EQ(Caller({"Bearer alpha"}), "ann of default");
  Write(Sha256Hex("beta") + " bob2\n");
  EXPECT_EQ(CallerAtLast("Bearer beta", "bob2 of default"), "bob2 of default");
  EXPECT_EQ(Caller({"Bearer alpha"}), kRefused);
}

TEST_F(TokenTest, AFaultyOrMissingFileKeepsTheTokensReadBefore) {
  std::vector<std::string> lines;
  Mutex mutex;
  SetLogWriter([&](const std::string& line) {
    MutexLock lock(&mutex);
    lines.push_back(line);
  });
  const auto fault_logged = [&](const std::string& text) {
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (absl::Now() < end) {
      Caller({"Bearer alpha"});
      MutexLock lock(&mutex);
      for (const std::string& line : lines) {
        if (absl::StrContains(line, text)) return true;
      }
    }
    return false;
  };
  Write(Sha256Hex("alpha") + " ann\n");
  Serve();
  Write("oops, my token is sesame\n");
  EXPECT_TRUE(fault_logged("tokens:1: not a line of a token file"));
  EXPECT_EQ(Caller({"Bearer alpha"}), "ann of default");
  std::filesystem::remove(path_);
  EXPECT_TRUE(fault_logged("No such file"));
  EXPECT_EQ(Caller({"Bearer alpha"}), "ann of default");
  Write(Sha256Hex("beta") + " bob\n");
  EXPECT_EQ(CallerAtLast("Bearer beta", "bob of default"), "bob of default");
  SetLogWriter(nullptr);
  for (const std::string& line : lines) EXPECT_THAT(line, Not(HasSubstr("sesame")));
}

TEST_F(TokenTest, AtStartFaultsAreErrors) {
  const auto missing = MakeTokenAuthenticator(path_, false);
  EXPECT_EQ(ReasonOf(missing.status()), Reason::kUsage);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("No such file"));
  Write("x");
  EXPECT_EQ(ReasonOf(MakeTokenAuthenticator(path_, false).status()), Reason::kUsage);
}

TEST(TokenFile, FaultsNameTheLineAndQuoteNothing) {
  const std::string digest = Sha256Hex("a");
  for (const std::string& line :
       {digest, std::string("secret name"), digest + " a b c", digest.substr(1) + " a",
        digest + " a Team", digest + " a -x", digest + " ok\n" + digest + " twice"}) {
    const auto entries = ParseTokenFile("tokens", "# c\n" + line);
    ASSERT_FALSE(entries.ok()) << line;
    EXPECT_THAT(std::string(entries.status().message()),
                testing::StartsWith(absl::StrContains(line, '\n') ? "tokens:3: " : "tokens:2: "));
    EXPECT_THAT(std::string(entries.status().message()), Not(HasSubstr("secret")));
  }
}

TEST(TokenFile, AMadeTokenOpensWithItsLine) {
  const auto made = MakeToken("ann", "team-a");
  ASSERT_TRUE(made.ok());
  EXPECT_GE(made->token.size(), 43u);
  EXPECT_NE(made->token, MakeToken("ann", "team-a")->token);
  EXPECT_THAT(made->line, Not(HasSubstr(made->token)));
  const auto entries = ParseTokenFile("tokens", made->line);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->at(0).digest, Sha256Hex(made->token));
  EXPECT_EQ(entries->at(0).tenant, "team-a");
  EXPECT_FALSE(MakeToken("two words", "").ok());
  EXPECT_FALSE(MakeToken("a", "Team").ok());
}

}  // namespace
}  // namespace orthomerge
