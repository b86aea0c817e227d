// The directory of a zip archive whose entries are stored as they are, as torch.save writes it
// (APPNOTE.TXT of PKWARE, with its 64-bit records). Readers of damaged or crafted archives differ
// in what they see, so whatever can be read in two ways is refused.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/range_reader.h"

namespace orthomerge {

struct ZipEntry {
  std::string name;
  uint64_t begin = 0;  // byte range of its data in the file
  uint64_t end = 0;
  uint32_t crc = 0;

  uint64_t bytes() const { return end - begin; }
};

struct ZipDirectory {
  std::vector<ZipEntry> entries;  // sorted by name, names are unique

  const ZipEntry* Find(absl::string_view name) const;  // null if absent
};

// Reads the directory and the local header of every entry, never their data. Holds afterwards: both
// agree, no name is there twice, nothing is encrypted or compressed, entries begin at the file's
// first byte and do not overlap, all of it lies inside the file. At most 32 MiB of directory.
// Errors are kInputCorrupt, or kUnsupported for what is legal but not read (compression).
absl::StatusOr<ZipDirectory> ReadZipDirectory(const RangeReader& read, uint64_t file_size);

// The data of an entry of at most `max_bytes`, held against its checksum.
absl::StatusOr<std::string> ReadZipEntry(const RangeReader& read, const ZipEntry& entry,
                                         uint64_t max_bytes);

}  // namespace orthomerge
