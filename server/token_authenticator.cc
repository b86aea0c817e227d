#include <openssl/crypto.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/clock.h"
#include "core/base/digest.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "server/authenticator.h"
#include "server/token_file.h"

namespace orthomerge {
namespace {

constexpr char kDefaultTenant[] = "default";
constexpr absl::Duration kLookInterval = absl::Seconds(1);
constexpr size_t kMaxFile = 4 * 1024 * 1024;

class OpenAuthenticator : public Authenticator {
 public:
  absl::StatusOr<Principal> Authenticate(const grpc::ServerContextBase&) override {
    return Principal{"anonymous", kDefaultTenant};
  }
};

// What tells one version of a file from the next.
struct FileVersion {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  timespec modified = {};

  friend bool operator==(const FileVersion& a, const FileVersion& b) {
    return a.device == b.device && a.inode == b.inode && a.size == b.size &&
           a.modified.tv_sec == b.modified.tv_sec && a.modified.tv_nsec == b.modified.tv_nsec;
  }
};

absl::StatusOr<FileVersion> VersionOf(const std::string& path) {
  struct stat facts = {};
  if (stat(path.c_str(), &facts) != 0) {
    return MakeError(Reason::kUsage, absl::StrCat(path, ": cannot read the token file: ",
                                                  std::generic_category().message(errno)));
  }
  return FileVersion{facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtim};
}

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text(kMaxFile + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (!stream.eof() || text.size() > kMaxFile) {
    return MakeError(Reason::kUsage,
                     absl::StrCat(path, ": cannot read the token file, or it is over 4 MiB"));
  }
  return text;
}

class TokenAuthenticator : public Authenticator {
 public:
  TokenAuthenticator(std::string path, bool certificates)
      : path_(std::move(path)), certificates_(certificates) {}

  absl::Status Start() {
    if (path_.empty()) return absl::OkStatus();
    MutexLock lock(&mutex_);
    return Read();
  }

  absl::StatusOr<Principal> Authenticate(const grpc::ServerContextBase& context) override {
    const auto [begin, end] = context.client_metadata().equal_range("authorization");
    if (begin != end && std::next(begin) == end && !path_.empty()) {
      const std::string header(begin->second.data(), begin->second.size());
      const size_t space = header.find(' ');
      if (space != std::string::npos && absl::EqualsIgnoreCase(header.substr(0, space), "bearer")) {
        const std::string token(absl::StripAsciiWhitespace(header.substr(space + 1)));
        if (std::optional<Principal> principal = FindToken(token)) return *std::move(principal);
      }
    } else if (begin == end && certificates_) {
      if (std::optional<Principal> principal = FindCertificate(context)) {
        return *std::move(principal);
      }
    }
    return MakeError(Reason::kUnauthenticated,
                     path_.empty() ? "this server needs a client certificate with a subject "
                                     "alternative name"
                                   : "this server needs a valid token: send the header "
                                     "'authorization: Bearer TOKEN'");
  }

 private:
  std::optional<Principal> FindToken(const std::string& token) {
    const std::string digest = Sha256Hex(token);
    MutexLock lock(&mutex_);
    Look();
    // All entries are compared in full, so the time taken says nothing about any of them.
    const TokenEntry* found = nullptr;
    for (const TokenEntry& entry : tokens_) {
      if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) found = &entry;
    }
    if (found == nullptr) return std::nullopt;
    return Principal{found->name, found->tenant};
  }

  static std::optional<Principal> FindCertificate(const grpc::ServerContextBase& context) {
    const std::shared_ptr<const grpc::AuthContext> peer = context.auth_context();
    if (peer == nullptr || !peer->IsPeerAuthenticated()) return std::nullopt;
    const std::vector<grpc::string_ref> names =
        peer->FindPropertyValues("x509_subject_alternative_name");
    if (names.empty()) return std::nullopt;
    return Principal{std::string(names[0].data(), names[0].size()), kDefaultTenant};
  }

  // Reads the file again if it has changed since; at most once a second.
  void Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Time now = absl::Now();
    if (now >= looked_ && now < looked_ + kLookInterval) return;
    looked_ = now;
    const absl::StatusOr<FileVersion> version = VersionOf(path_);
    if (version.ok() && *version == version_) return;
    const absl::Status status = version.ok() ? Read() : version.status();
    if (status.ok()) {
      ORTHOMERGE_LOG(kInfo, "token file read again").With("tokens", tokens_.size());
    } else if (std::string(status.message()) != fault_) {
      ORTHOMERGE_LOG(kError, "token file is faulty; the tokens read before stay valid")
          .With("error", status.message());
    }
    fault_ = std::string(status.message());
  }

  absl::Status Read() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // The version first: a change while reading is then seen as one the next time.
    ASSIGN_OR_RETURN(const FileVersion version, VersionOf(path_));
    ASSIGN_OR_RETURN(const std::string text, ReadTokenFile(path_));
    ASSIGN_OR_RETURN(tokens_, ParseTokenFile(path_, text));
    version_ = version;
    return absl::OkStatus();
  }

  const std::string path_;
  const bool certificates_;
  Mutex mutex_;
  std::vector<TokenEntry> tokens_ ABSL_GUARDED_BY(mutex_);
  FileVersion version_ ABSL_GUARDED_BY(mutex_);
  absl::Time looked_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::string fault_ ABSL_GUARDED_BY(mutex_);  // the last one, so that it is logged once
};

}  // namespace

std::unique_ptr<Authenticator> MakeOpenAuthenticator() {
  return std::make_unique<OpenAuthenticator>();
}

absl::StatusOr<std::unique_ptr<Authenticator>> MakeTokenAuthenticator(const std::string& path,
                                                                      bool certificates) {
  auto authenticator = std::make_unique<TokenAuthenticator>(path, certificates);
  RETURN_IF_ERROR(authenticator->Start());
  return std::unique_ptr<Authenticator>(std::move(authenticator));
}

}  // namespace orthomerge
