#include "server/certificate_gauge.h"

#include <utility>

#include "core/base/log.h"
#include "server/tls.h"

namespace orthomerge {

CertificateGauge::CertificateGauge(std::string certificate, absl::Duration interval,
                                   Metrics* metrics)
    : certificate_(std::move(certificate)), interval_(interval), metrics_(metrics) {
  Show();
  thread_ = std::thread([this] { Run(); });
}

CertificateGauge::~CertificateGauge() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  stopped_.NotifyAll();
  thread_.join();
}

void CertificateGauge::Show() {
  const absl::StatusOr<absl::Time> expiry = CertificateExpiry(certificate_);
  if (expiry.ok()) {
    metrics_->SetTlsCertificateExpiry(absl::ToDoubleSeconds(*expiry - absl::UnixEpoch()));
  } else {
    ORTHOMERGE_LOG(kError, "the certificate cannot be read; the one read before is used")
        .With("error", expiry.status().message());
  }
}

void CertificateGauge::Run() {
  MutexLock lock(&mutex_);
  while (!stop_) {
    if (stopped_.WaitFor(&mutex_, interval_)) continue;
    mutex_.Unlock();
    Show();
    mutex_.Lock();
  }
}

}  // namespace orthomerge
