#include "core/storage/s3_store.h"

namespace orthomerge {

std::unique_ptr<ObjectStore> MakeS3Store(const S3Options&) { return nullptr; }

}  // namespace orthomerge
