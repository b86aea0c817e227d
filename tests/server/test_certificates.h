// Certificates for tests: an authority, and what it signs.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace orthomerge {

class TestAuthority {
 public:
  struct Pair {
    std::string certificate, key;  // PEM
  };

  explicit TestAuthority(const std::string& name) : key_(EVP_EC_gen("P-256"), EVP_PKEY_free) {
    certificate_ = Build(name, key_.get(), {}, 3600, true);
  }

  std::string Pem() const { return PemOf(certificate_.get()); }

  // A certificate with a subject alternative name, valid for `seconds` from now.
  Pair Issue(const std::string& name, long seconds = 3600) const {
    const KeyPtr key(EVP_EC_gen("P-256"), EVP_PKEY_free);
    const CertificatePtr certificate = Build(name, key.get(), name, seconds, false);
    BIO* memory = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(memory, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    return {PemOf(certificate.get()), Drain(memory)};
  }

 private:
  using KeyPtr = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
  using CertificatePtr = std::unique_ptr<X509, decltype(&X509_free)>;

  static std::string Drain(BIO* memory) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(memory, &data);
    std::string text(data, static_cast<size_t>(size));
    BIO_free(memory);
    return text;
  }

  static std::string PemOf(X509* certificate) {
    BIO* memory = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(memory, certificate);
    return Drain(memory);
  }

  CertificatePtr Build(const std::string& name, EVP_PKEY* key, const std::string& dns, long seconds,
                       bool authority) const {
    static int serial = 1;
    CertificatePtr certificate(X509_new(), X509_free);
    X509_set_version(certificate.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -7200);
    X509_gmtime_adj(X509_getm_notAfter(certificate.get()), seconds);
    X509_set_pubkey(certificate.get(), key);
    X509_NAME* subject = X509_get_subject_name(certificate.get());
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(certificate.get(),
                         authority ? subject : X509_get_subject_name(certificate_.get()));
    Extend(certificate.get(), NID_basic_constraints, authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (!dns.empty()) {
      Extend(certificate.get(), NID_subject_alt_name, absl::StrCat("DNS:", dns));
    }
    X509_sign(certificate.get(), key_.get(), EVP_sha256());
    return certificate;
  }

  static void Extend(X509* certificate, int id, const std::string& value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, id, value.c_str());
    ASSERT_NE(extension, nullptr);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }

  KeyPtr key_;
  CertificatePtr certificate_{nullptr, X509_free};
};

}  // namespace orthomerge
