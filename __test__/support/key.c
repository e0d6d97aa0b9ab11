// Keys of the session keyring. "add PROGRAM...": puts a key into a new one and executes the program. "read": prints it.
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments) {
  if (count > 2 && !strcmp(arguments[1], "add")) {
    syscall(SYS_keyctl, 1, 0);
    if (syscall(SYS_add_key, "user", "rootfs-test", "secret", 6, -3) < 0) return 1;
    execvp(arguments[2], arguments + 2);
    return 127;
  }
  char text[64] = {0};
  long key = syscall(SYS_request_key, "user", "rootfs-test", 0, 0);
  long length = key < 0 ? -1 : syscall(SYS_keyctl, 11, key, text, sizeof text - 1);
  puts(length < 0 ? "none" : text);
  return 0;
}
