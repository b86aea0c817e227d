// Reads a pickle of plain values and torch tensors as data: a machine of its own that knows few
// opcodes and a list of names, and never calls, imports or makes anything but the values below.
// https://docs.python.org/3/library/pickletools.html, torch/serialization.py.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/math/dtype.h"

namespace orthomerge {

constexpr uint64_t kMaxPickle = uint64_t{32} << 20;  // bytes

// A name that a pickle may refer to, and what it stands for.
struct PickleGlobal {
  enum class Role {
    kOrderedDict,
    kSize,                // torch.Size
    kDevice,              // torch.device
    kTensorV2,            // functions that make a tensor or a parameter of their arguments
    kTensorV3,            //
    kParameter,           //
    kParameterWithState,  //
    kStorage,             // a storage class; without a dtype it counts bytes
    kDType,
  };
  absl::string_view name;  // module and name, a space between them
  Role role = Role::kOrderedDict;
  std::optional<DType> dtype = std::nullopt;  // of kStorage and kDType
};

struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInteger,
    kOther,  // a number or device that nobody needs the value of
    kText,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kStorage,  // a persistent id; torch keeps its storages that way
    kCall,     // of a function that makes a tensor or a parameter
  };
  Kind kind = Kind::kNone;
  int64_t number = 0;                     // kBool, kInteger
  absl::string_view text;                 // kText: bytes of the pickle, perhaps not UTF-8
  const PickleGlobal* global = nullptr;   // kGlobal, kCall: the function
  std::vector<const PickleValue*> items;  // kTuple, kList; kDict: key, value, key, value ...;
                                          // kStorage, kCall: one item, what it was made of
};

// Values may be shared, and hold themselves: follow them to a fixed depth only.
struct Pickle {
  std::deque<PickleValue> values;  // all of them
  const PickleValue* root = nullptr;
};

// Reads a whole pickle of protocol 2 to 5, which must outlive the result. Time and memory are
// bounded by its size: at most kMaxPickle bytes and 3 million values. kInputCorrupt for what no
// pickle is, kUnsupported for opcodes and names that are not on the lists; both give the byte.
absl::StatusOr<Pickle> ParsePickle(absl::string_view bytes);

}  // namespace orthomerge
