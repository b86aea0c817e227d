#include "core/jobs/executor.h"

namespace orthomerge {

bool IsRetryable(Reason reason) {
  switch (reason) {
    case Reason::kInternal:  // unclassified: worth the attempts that the job has
    case Reason::kOutOfMemory:
    case Reason::kDiskFull:
    case Reason::kStorageUnavailable:
    case Reason::kPlanRunning:
    case Reason::kPermissionDenied:  // planning had access; credentials expire, and come back
    case Reason::kCredentialsMissing:
    case Reason::kCredentialsRejected:
    case Reason::kServerUnavailable:
      return true;
    default:
      return false;
  }
}

}  // namespace orthomerge
