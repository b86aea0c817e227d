// Reads JSON of unknown origin as a stream of events: strict, and limited in depth.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace orthomerge {

// `text` in single quotes for a message: escaped where it is not printable, shortened where long.
std::string Quoted(absl::string_view text);

// A null, boolean, number or string. Only non-negative integers of at most 64 bits, written without
// fraction and exponent, are kUnsigned.
struct JsonScalar {
  enum class Kind { kNull, kBoolean, kUnsigned, kOtherNumber, kString };
  Kind kind = Kind::kNull;
  uint64_t number = 0;          // of a kUnsigned
  double real = 0;              // of any number
  bool truth = false;           // of a kBoolean
  std::string* text = nullptr;  // of a kString, escapes decoded; the receiver may move it away
};

// Receives the events of one JSON object. Every handler returns whether to go on; Fail() says why
// not. No object may hold a key twice, at any depth but the first: there keys can be many, and the
// receiver checks them.
class JsonEvents : private nlohmann::json_sax<nlohmann::json> {
 public:
  ~JsonEvents() override = default;

  // Reads one object from `text`: UTF-8, nothing but white space around it. Errors are
  // kInputCorrupt and begin with `what`, e.g. "header".
  absl::Status Read(absl::string_view text, absl::string_view what);

 protected:
  static constexpr int kMaxDepth = 32;

  // Depth of the enclosing object or array: 1 inside the outermost object. In Open and Close it is
  // the depth inside the object or array that opens or closes.
  int depth() const { return depth_; }
  bool Fail(std::string fault);
  // A key that its object holds twice; called when the object ends.
  virtual bool FailTwice(const std::string& key);

 private:
  virtual bool Open(bool array) = 0;
  virtual bool Close() = 0;
  virtual bool Key(std::string& name) = 0;
  virtual bool Scalar(const JsonScalar& value) = 0;

  bool null() final;
  bool boolean(bool value) final;
  bool number_integer(int64_t value) final;
  bool number_unsigned(uint64_t value) final;
  bool number_float(double value, const std::string& text) final;
  bool string(std::string& value) final;
  bool binary(nlohmann::json::binary_t& value) final;
  bool start_object(size_t size) final;
  bool key(std::string& name) final;
  bool end_object() final;
  bool start_array(size_t size) final;
  bool end_array() final;
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::json::exception& error) final;
  bool Start(bool array);

  int depth_ = 0;
  std::string fault_;
  std::vector<std::vector<std::string>> keys_;  // of the open objects from depth 2 on
};

}  // namespace orthomerge
