// Makes memory executable and calls what it has put there. Prints "executed", or what refused it.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
static const unsigned char code[] = {0xc3};
#elif defined(__aarch64__)
static const unsigned char code[] = {0xc0, 0x03, 0x5f, 0xd6};
#endif

int main(void) {
  size_t size = sysconf(_SC_PAGESIZE);
  char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return perror("mmap"), 1;
  memcpy(memory, code, sizeof code);
  if (mprotect(memory, size, PROT_READ | PROT_EXEC)) return puts("mprotect"), 0;
  __builtin___clear_cache(memory, memory + sizeof code);
  ((void (*)(void))memory)();
  if (mmap(0, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
    return puts("mmap"), 0;
  puts("executed");
  return 0;
}
