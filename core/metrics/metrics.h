// Every Prometheus family of the process, in one place: names, help, labels, buckets. Code that
// counts holds a Metrics* (never null in the server; null where nothing counts, as in one-shot
// runs).
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace orthomerge {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  std::shared_ptr<prometheus::Registry> registry() const;

  // Jobs. `reason` is "" for success.
  void JobSubmitted(absl::string_view tenant, absl::string_view method);
  void JobFinished(absl::string_view tenant, absl::string_view method, absl::string_view result,
                   absl::string_view reason, double queue_seconds, double run_seconds);
  void AttemptEnded(absl::string_view outcome);  // ok, error, lease_lost, released, cancelled
  void SetJobs(absl::string_view state, double count);
  void SetOldestQueuedAge(double seconds);
  void LeaseRenewFailed();
  void FencedWrite(absl::string_view operation);

  // Merging.
  void AddMergeBytes(absl::string_view phase, absl::string_view device, double bytes);
  void AddMergeTensors(absl::string_view method, double count);
  void ObservePhase(absl::string_view phase, absl::string_view device, double seconds);
  void SetWorkerBusy(absl::string_view device, bool busy);
  void SetWorkerHung(absl::string_view device, bool hung);

  // Storage.
  void StorageRequest(absl::string_view backend, absl::string_view operation,
                      absl::string_view code, double seconds, double bytes_read,
                      double bytes_written);

  // Watching.
  void SetWatchers(double count);
  void WatchEvent(absl::string_view kind);
  void WatchConflated();
  void WatchClosed(absl::string_view reason);  // final, client, stream_age, draining, too_slow

  // Calls; `type` is "unary" or "server_stream". AddCall makes the series of a method, with 0.
  void AddCall(absl::string_view type, absl::string_view service, absl::string_view method);
  void CallStarted(absl::string_view type, absl::string_view service, absl::string_view method);
  void CallHandled(absl::string_view type, absl::string_view service, absl::string_view method,
                   absl::string_view code, double seconds);
  void MessageReceived(absl::string_view type, absl::string_view service, absl::string_view method);
  void MessageSent(absl::string_view type, absl::string_view service, absl::string_view method);

  // The process.
  void SetConfigLoaded(double unix_seconds);
  void SetTlsCertificateExpiry(double unix_seconds);

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace orthomerge
