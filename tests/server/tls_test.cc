#include "server/tls.h"

#include <filesystem>

#include "absl/time/clock.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/certificate_gauge.h"
#include "test_certificates.h"
#include "test_context.h"
#include "test_service.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;

class TlsTest : public testing::Test {
 protected:
  TlsTest() {
    WriteText(files_.client_ca, clients_.Pem());
    Install(servers_.Issue("localhost"), "first");
  }

  // The way of Kubernetes: a new folder, then one rename of the link that both paths go through.
  void Install(const TestAuthority::Pair& pair, const std::string& version) {
    std::filesystem::create_directory(folder_ + "/" + version);
    WriteText(folder_ + "/" + version + "/tls.crt", pair.certificate);
    WriteText(folder_ + "/" + version + "/tls.key", pair.key);
    std::filesystem::create_directory_symlink(version, folder_ + "/next");
    std::filesystem::rename(folder_ + "/next", folder_ + "/live");
  }

  void Serve(const TlsFiles& files, Authenticator* authenticator = nullptr) {
    auto credentials = MakeTlsCredentials(files);
    ASSERT_TRUE(credentials.ok()) << credentials.status();
    service_ = std::make_unique<StubService>(authenticator);
    auto server = Server::Start(
        LocalConfig(),
        {.service = service_.get(), .credentials = *credentials, .metrics = &metrics_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // A client that trusts `authority`, with a certificate of its own or none.
  InfoAnswer Ask(const TestAuthority& authority, const TestAuthority::Pair& own = {}) {
    return AskInfo(
        ChannelTo(server_->address(), grpc::SslCredentials({.pem_root_certs = authority.Pem(),
                                                            .pem_private_key = own.key,
                                                            .pem_cert_chain = own.certificate})));
  }

  std::string FaultOf(const TlsFiles& files) {
    const auto credentials = MakeTlsCredentials(files);
    EXPECT_EQ(ReasonOf(credentials.status()), Reason::kUsage);
    return std::string(credentials.status().message());
  }

  const std::string folder_ = FreshFolder();
  const TestAuthority servers_{"servers"}, clients_{"clients"}, strangers_{"strangers"};
  TlsFiles files_{folder_ + "/live/tls.crt", folder_ + "/live/tls.key", folder_ + "/clients.pem",
                  absl::Seconds(1)};
  Metrics metrics_;
  std::unique_ptr<StubService> service_;
  std::unique_ptr<Server> server_;
};

TEST_F(TlsTest, ServesThoseWhoTrustIt) {
  files_.client_ca.clear();
  Serve(files_);
  EXPECT_TRUE(Ask(servers_).status.ok());
  EXPECT_EQ(Ask(strangers_).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(AskInfo(ChannelTo(server_->address())).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ClientsNeedACertificateOfTheRightAuthority) {
  auto authenticator = MakeTokenAuthenticator("", true);
  ASSERT_TRUE(authenticator.ok());
  Serve(files_, authenticator->get());
  const InfoAnswer good = Ask(servers_, clients_.Issue("pipeline.example"));
  EXPECT_TRUE(good.status.ok()) << good.status.error_message();
  EXPECT_EQ(good.version, "pipeline.example of default");
  EXPECT_EQ(Ask(servers_).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Ask(servers_, strangers_.Issue("pipeline.example")).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Ask(servers_, clients_.Issue("pipeline.example", -60)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ANewCertificateServesNewConnections) {
  files_.client_ca.clear();
  Serve(files_);
  const auto old_channel =
      ChannelTo(server_->address(), grpc::SslCredentials({servers_.Pem(), "", ""}));
  EXPECT_TRUE(AskInfo(old_channel).status.ok());
  const TestAuthority others("others");
  Install(others.Issue("localhost"), "second");
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (!Ask(others).status.ok() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(100));
  EXPECT_TRUE(Ask(others).status.ok());
  EXPECT_EQ(Ask(servers_).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(AskInfo(old_channel).status.ok()) << "an open connection goes on";
}

TEST_F(TlsTest, FaultyFilesAreNamed) {
  TlsFiles files = files_;
  files.certificate = folder_ + "/none.pem";
  EXPECT_THAT(FaultOf(files), HasSubstr("none.pem: cannot use this as the server's certificate: No "
                                        "such file"));
  files = files_;
  files.key = files.certificate;
  EXPECT_THAT(FaultOf(files), HasSubstr("it holds no key"));
  files.key = folder_ + "/other.key";
  WriteText(files.key, servers_.Issue("localhost").key);
  EXPECT_THAT(FaultOf(files), HasSubstr("other.key: cannot use this as the server's key: it does "
                                        "not belong to the certificate"));
  files = files_;
  WriteText(files.client_ca, "not PEM");
  EXPECT_THAT(FaultOf(files), HasSubstr("clients.pem: cannot use this as the authorities"));
  files = files_;
  Install(servers_.Issue("localhost", -60), "expired");
  EXPECT_THAT(FaultOf(files), HasSubstr("tls.crt: cannot use this as the server's certificate: it "
                                        "expired at"));
}

TEST_F(TlsTest, ExpiryFollowsTheFile) {
  const auto shown = [&] {
    for (const prometheus::MetricFamily& family : metrics_.registry()->Collect()) {
      if (family.name == "orthomerge_tls_cert_expiry_timestamp_seconds") {
        return absl::FromUnixSeconds(static_cast<int64_t>(family.metric.at(0).gauge.value));
      }
    }
    return absl::InfinitePast();
  };
  CertificateGauge gauge(files_.certificate, absl::Milliseconds(10), &metrics_);
  EXPECT_LT(absl::AbsDuration(shown() - (absl::Now() + absl::Hours(1))), absl::Minutes(1));
  Install(servers_.Issue("localhost", 7200), "second");
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (shown() < absl::Now() + absl::Minutes(90) && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_LT(absl::AbsDuration(shown() - (absl::Now() + absl::Hours(2))), absl::Minutes(1));
}

TEST_F(TlsTest, ExpiryIsRead) {
  const auto expiry = CertificateExpiry(files_.certificate);
  ASSERT_TRUE(expiry.ok());
  EXPECT_LT(absl::AbsDuration(*expiry - (absl::Now() + absl::Hours(1))), absl::Minutes(1));
}

}  // namespace
}  // namespace orthomerge
