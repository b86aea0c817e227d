#include "server/tls.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

template <typename T, void (*kFree)(T*)>
struct Deleter {
  void operator()(T* object) const { kFree(object); }
};
using Certificate = std::unique_ptr<X509, Deleter<X509, X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY, EVP_PKEY_free>>;
using Memory = std::unique_ptr<BIO, Deleter<BIO, BIO_free_all>>;

absl::Status Fault(absl::string_view what, const std::string& path, absl::string_view why) {
  ERR_clear_error();
  return MakeError(Reason::kUsage, absl::StrCat(path, ": cannot use this as ", what, ": ", why));
}

absl::StatusOr<Memory> Open(absl::string_view what, const std::string& path) {
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return Fault(what, path, std::generic_category().message(errno));
  std::stringstream text;
  text << stream.rdbuf();
  const std::string bytes = text.str();
  Memory memory(BIO_new(BIO_s_mem()));
  BIO_write(memory.get(), bytes.data(), static_cast<int>(bytes.size()));
  return memory;
}

absl::StatusOr<Certificate> ReadCertificate(absl::string_view what, const std::string& path) {
  ASSIGN_OR_RETURN(const Memory memory, Open(what, path));
  Certificate certificate(PEM_read_bio_X509(memory.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) return Fault(what, path, "it holds no certificate in PEM form");
  return certificate;
}

absl::Status CheckKey(const std::string& path, const X509& certificate) {
  constexpr char kWhat[] = "the server's key";
  ASSIGN_OR_RETURN(const Memory memory, Open(kWhat, path));
  // Without a callback OpenSSL would ask for a password on the terminal.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  const Key key(PEM_read_bio_PrivateKey(memory.get(), nullptr, no_password, nullptr));
  if (key == nullptr) return Fault(kWhat, path, "it holds no key in PEM form without a password");
  if (X509_check_private_key(&certificate, key.get()) != 1) {
    return Fault(kWhat, path, "it does not belong to the certificate");
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Time> ExpiryOf(const X509& certificate) {
  std::tm fields = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &fields) != 1) {
    return MakeError(Reason::kUsage, "the certificate has no valid end");
  }
  return absl::FromTM(fields, absl::UTCTimeZone());
}

}  // namespace

absl::StatusOr<absl::Time> CertificateExpiry(const std::string& path) {
  ASSIGN_OR_RETURN(const Certificate certificate,
                   ReadCertificate("the server's certificate", path));
  return ExpiryOf(*certificate);
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeTlsCredentials(const TlsFiles& files) {
  constexpr char kWhat[] = "the server's certificate";
  ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate(kWhat, files.certificate));
  RETURN_IF_ERROR(CheckKey(files.key, *certificate));
  ASSIGN_OR_RETURN(const absl::Time expiry, ExpiryOf(*certificate));
  if (expiry < absl::Now()) {
    return Fault(kWhat, files.certificate,
                 absl::StrCat("it expired at ", absl::FormatTime(expiry, absl::UTCTimeZone())));
  }
  if (!files.client_ca.empty()) {
    RETURN_IF_ERROR(
        ReadCertificate("the authorities of client certificates", files.client_ca).status());
  }

  const auto interval =
      static_cast<unsigned int>(std::max<int64_t>(1, absl::ToInt64Seconds(files.reload_interval)));
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.client_ca, interval));
  options.watch_identity_key_cert_pairs();
  if (files.client_ca.empty()) {
    options.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  } else {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  std::shared_ptr<grpc::ServerCredentials> credentials =
      grpc::experimental::TlsServerCredentials(options);
  if (credentials == nullptr) {
    return Fault("certificate and key", files.certificate, "gRPC refuses them");
  }
  return credentials;
}

}  // namespace orthomerge
