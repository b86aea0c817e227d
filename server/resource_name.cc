#include "server/resource_name.h"

#include <random>

#include "absl/strings/str_cat.h"

namespace orthomerge {
namespace {

constexpr char kTenants[] = "tenants/";
constexpr char kJobs[] = "/mergeJobs/";
constexpr size_t kMaxSegment = 63;

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

bool IsTenant(const std::string& tenant) {
  if (tenant.empty() || tenant.size() > kMaxSegment) return false;
  for (const char c : tenant) {
    if (c <= ' ' || c == '/' || c > '~') return false;
  }
  return true;
}

}  // namespace

std::string TenantName(const std::string& tenant) { return absl::StrCat(kTenants, tenant); }

std::string JobName(const JobKey& key) { return absl::StrCat(kTenants, key.tenant, kJobs, key.id); }

std::optional<std::string> ParseTenantName(const std::string& name) {
  if (name.rfind(kTenants, 0) != 0) return std::nullopt;
  std::string tenant = name.substr(sizeof(kTenants) - 1);
  if (!IsTenant(tenant)) return std::nullopt;
  return tenant;
}

std::optional<JobKey> ParseJobName(const std::string& name) {
  const size_t jobs = name.find(kJobs);
  if (jobs == std::string::npos) return std::nullopt;
  const std::optional<std::string> tenant = ParseTenantName(name.substr(0, jobs));
  std::string id = name.substr(jobs + sizeof(kJobs) - 1);
  if (!tenant.has_value() || !IsJobId(id)) return std::nullopt;
  return JobKey{.tenant = *tenant, .id = std::move(id)};
}

bool IsJobId(const std::string& id) {
  if (id.empty() || id.size() > kMaxSegment) return false;
  if (id.front() < 'a' || id.front() > 'z' || id.back() == '-') return false;
  for (const char c : id) {
    if (!IsLowerOrDigit(c) && c != '-') return false;
  }
  return true;
}

std::string NewJobId() {
  static constexpr char kAlphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
  std::random_device random;
  std::string id = "job-";
  for (int i = 0; i < 20; i += 5) {
    unsigned bits = random();
    for (int j = 0; j < 5; ++j, bits >>= 5) id += kAlphabet[bits & 31];
  }
  return id;
}

}  // namespace orthomerge
