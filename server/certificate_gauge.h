// Keeps the metric of the certificate's expiry up to date.
#pragma once

#include <string>
#include <thread>

#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/metrics/metrics.h"

namespace orthomerge {

// Looks at the file now and after every `interval`. `metrics` must outlive it.
class CertificateGauge {
 public:
  CertificateGauge(std::string certificate, absl::Duration interval, Metrics* metrics);
  ~CertificateGauge();

 private:
  void Show();
  void Run();

  const std::string certificate_;
  const absl::Duration interval_;
  Metrics* const metrics_;
  Mutex mutex_;
  ConditionVariable stopped_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace orthomerge
