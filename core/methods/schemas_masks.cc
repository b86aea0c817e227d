// Methods that select entries of task vectors: by magnitude, agreement, sensitivity or chance.
#include "core/methods/schema_parts.h"

namespace orthomerge {

void AddMaskSchemas(std::vector<MethodSchema>* methods) { (void)methods; }

}  // namespace orthomerge
