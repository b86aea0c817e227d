// For LD_PRELOAD: large reads of files do not return while the file that HANG_WHILE names exists,
// as on a network file system whose server does not answer. "FILE.held" says that one has come.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void Hang(size_t count) {
  const char* path = getenv("HANG_WHILE");
  if (count <= 128 * 1024 || path == NULL || access(path, F_OK) != 0) return;
  char held[4096];
  snprintf(held, sizeof held, "%s.held", path);
  close(open(held, O_CREAT | O_WRONLY, 0600));
  while (access(path, F_OK) == 0) usleep(20000);
}

ssize_t pread64(int file, void* bytes, size_t count, off64_t offset) {
  ssize_t (*next)(int, void*, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
  Hang(count);
  return next(file, bytes, count, offset);
}

ssize_t pread(int file, void* bytes, size_t count, off_t offset) {
  return pread64(file, bytes, count, offset);
}
