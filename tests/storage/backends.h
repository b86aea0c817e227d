// The stores that the conformance test runs against.
#pragma once

#include <memory>
#include <string>

#include "core/storage/object_store.h"
#include "tests/storage/test_support.h"

namespace orthomerge {

class Backend {
 public:
  virtual ~Backend() = default;
  virtual ObjectStore& store() = 0;
  virtual Uri root() = 0;  // an empty folder of its own
  virtual bool keeps_metadata() { return true; }
};

// "local", "restricted", "fault", "s3" or "profile". Null with a failure of the test that says how
// to get what is missing.
std::unique_ptr<Backend> MakeBackend(const std::string& name);

}  // namespace orthomerge
