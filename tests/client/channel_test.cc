#include "client/channel.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "client/merge_client.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_server.h"

namespace orthomerge::client {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

std::string TextOf(const std::function<void(BIO*)>& write) {
  BIO* bio = BIO_new(BIO_s_mem());
  write(bio);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

struct KeyAndCertificate {
  std::string key;
  std::string certificate;
};

// Signs itself, for 127.0.0.1.
KeyAndCertificate SelfSigned() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, certificate, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension =
      X509V3_EXT_conf_nid(nullptr, &context, NID_subject_alt_name, "IP:127.0.0.1");
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  X509_sign(certificate, key, EVP_sha256());
  KeyAndCertificate pair;
  pair.key = TextOf(
      [&](BIO* bio) { PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr); });
  pair.certificate = TextOf([&](BIO* bio) { PEM_write_bio_X509(bio, certificate); });
  X509_free(certificate);
  EVP_PKEY_free(key);
  return pair;
}

class Channel : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(testing::TempDir()) / "channel_test" / info->name();
    fs::remove_all(root_);
    fs::create_directories(root_);
    server_.info = [](v1::ServerInfo* info) {
      info->set_version("1");
      return grpc::Status::OK;
    };
  }

  std::string Put(const std::string& name, const std::string& text) {
    std::ofstream(root_ / name) << text;
    return root_ / name;
  }

  ConnectionOptions To(const FakeServer& server) {
    ConnectionOptions options;
    options.server = server.address();
    return options;
  }

  fs::path root_;
  FakeServer server_;
};

TEST_F(Channel, LoopbackIsThisMachineAlone) {
  for (const char* server :
       {"127.0.0.1:50051", "127.1.2.3:1", "localhost:50051", "localhost", "[::1]:50051", "::1",
        "unix:/run/x", "unix-abstract:x", "dns:///localhost:1", "ipv4:127.0.0.1:1,127.0.0.2:1",
        "ipv6:[::1]:1"}) {
    EXPECT_TRUE(IsLoopback(server)) << server;
  }
  for (const char* server :
       {"10.0.0.1:50051", "127.evil.com:1", "127.0.0.1.evil.com:1", "localhost.evil.com:1",
        "merge:50051", "[::2]:1", "0.0.0.0:1", "dns://8.8.8.8/localhost:1", "xds:///x",
        "ipv4:127.0.0.1:1,10.0.0.1:1", "127.0.0.1000:1", "127.0.0.999:1"}) {
    EXPECT_FALSE(IsLoopback(server)) << server;
  }
}

TEST_F(Channel, OnlyLoopbackIsSpokenToInTheClear) {
  const auto encrypted = [](const ConnectionOptions& options) {
    const auto connection = Connect(options);
    EXPECT_TRUE(connection.ok()) << connection.status();
    return (*connection)->encrypted();
  };
  EXPECT_FALSE(encrypted({.server = "127.0.0.1:1"}));
  EXPECT_TRUE(encrypted({.server = "merge.internal:1"}));
  EXPECT_TRUE(encrypted({.server = "merge.internal:1", .token = "secret"}));
  EXPECT_FALSE(encrypted({.server = "merge.internal:1", .plaintext = true, .token = "secret"}));
  EXPECT_TRUE(encrypted({.server = "127.0.0.1:1", .tls_ca = Put("ca", SelfSigned().certificate)}));
}

TEST_F(Channel, FaultyOptionsAreRefused) {
  const auto reason = [](const ConnectionOptions& options) {
    return ReasonOf(Connect(options).status());
  };
  EXPECT_EQ(reason({.server = ""}), Reason::kUsage);
  EXPECT_EQ(reason({.server = "https://merge.internal"}), Reason::kUsage);
  EXPECT_EQ(reason({.tls_ca = "x", .plaintext = true}), Reason::kUsage);
  EXPECT_EQ(reason({.tls_cert = Put("c", "x")}), Reason::kUsage);
  EXPECT_EQ(reason({.tls_ca = "/nonexistent/ca.pem"}), Reason::kCredentialsMissing);
  EXPECT_EQ(reason({.token_file = "/nonexistent/token"}), Reason::kCredentialsMissing);
  EXPECT_EQ(reason({.token_file = Put("empty", "")}), Reason::kCredentialsMissing);
  EXPECT_EQ(reason({.token = "two\nlines"}), Reason::kCredentialsMissing);
}

TEST_F(Channel, TheTokenFileIsReadAtEveryCallAndBeatsTheVariable) {
  server_.Start();
  ConnectionOptions options = To(server_);
  options.token = "other";
  options.token_file = Put("token", "first\n");
  MergeClient client(*Connect(options));
  EXPECT_TRUE(client.GetServerInfo().ok());
  Put("token", "second");
  EXPECT_TRUE(client.GetServerInfo().ok());
  EXPECT_THAT(server_.tokens(), ElementsAre("Bearer first", "Bearer second"));
  fs::remove(options.token_file);
  EXPECT_EQ(ReasonOf(client.GetServerInfo().status()), Reason::kCredentialsMissing);
}

TEST_F(Channel, TlsProvesTheServerAndTheClient) {
  const KeyAndCertificate server = SelfSigned();
  const KeyAndCertificate user = SelfSigned();
  grpc::SslServerCredentialsOptions tls(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  tls.pem_root_certs = user.certificate;
  tls.pem_key_cert_pairs.push_back({server.key, server.certificate});
  server_.Start(0, grpc::SslServerCredentials(tls));

  ConnectionOptions options = To(server_);
  options.tls_ca = Put("ca.pem", server.certificate);
  options.tls_cert = Put("cert.pem", user.certificate);
  options.tls_key = Put("key.pem", user.key);
  options.token = "secret";
  const auto connection = Connect(options);
  ASSERT_TRUE(connection.ok());
  EXPECT_TRUE(*(*connection)->AwaitReady(absl::Seconds(10), /*patient=*/false, nullptr));
  EXPECT_TRUE(MergeClient(*connection).GetServerInfo().ok());
  EXPECT_THAT(server_.tokens(), ElementsAre("Bearer secret"));

  // A server whose certificate nobody vouches for is no server of ours; no token goes there.
  options.tls_ca = Put("ca.pem", user.certificate);
  MergeClient wary(*Connect(options));
  wary.set_call_timeout(absl::Seconds(3));
  EXPECT_FALSE(wary.GetServerInfo().ok());
  EXPECT_EQ(server_.tokens().size(), 1u);
}

TEST_F(Channel, AServerThatSaysItDoesNotServeGetsNoCalls) {
  server_.Start();
  server_.SetServing(false);
  const auto connection = Connect(To(server_));
  EXPECT_FALSE(*(*connection)->AwaitReady(absl::Milliseconds(300), /*patient=*/true, nullptr));
  server_.SetServing(true);
  EXPECT_TRUE(*(*connection)->AwaitReady(absl::Seconds(10), /*patient=*/true, nullptr));
}

TEST_F(Channel, WaitingForAServerIsBounded) {
  FakeServer stopped;  // leaves a port that nobody listens to
  stopped.Start();
  stopped.Stop();
  const auto gone = Connect(To(stopped));
  EXPECT_FALSE(*(*gone)->AwaitReady(absl::Seconds(10), /*patient=*/false, nullptr));
  EXPECT_FALSE(*(*gone)->AwaitReady(absl::Milliseconds(200), /*patient=*/true, nullptr));
  Cancellation cancellation;
  cancellation.Cancel();
  EXPECT_EQ(ReasonOf((*gone)->AwaitReady(absl::Seconds(10), true, &cancellation).status()),
            Reason::kCancelled);
}

TEST_F(Channel, TheServiceConfigNamesMethodsThatThereAre) {
  const auto config = nlohmann::json::parse(ServiceConfigJson());
  EXPECT_TRUE(config["loadBalancingConfig"][0].contains("round_robin"));
  const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
      config["healthCheckConfig"]["serviceName"].get<std::string>());
  ASSERT_NE(service, nullptr);
  std::set<std::string> named;
  for (const auto& entry : config["methodConfig"]) {
    EXPECT_TRUE(entry.contains("timeout"));
    for (const auto& name : entry["name"]) {
      EXPECT_EQ(name["service"], service->full_name());
      EXPECT_NE(service->FindMethodByName(name["method"].get<std::string>()), nullptr) << name;
      EXPECT_TRUE(named.insert(name["method"].get<std::string>()).second) << name;
    }
  }
  // All but the stream, which may take days.
  EXPECT_EQ(static_cast<int>(named.size()), service->method_count() - 1);
  EXPECT_EQ(named.count("WatchMergeJob"), 0u);
}

}  // namespace
}  // namespace orthomerge::client
