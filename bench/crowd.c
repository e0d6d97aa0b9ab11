// Makes the mount table of this process's namespace long, and becomes another program: crowd COUNT DIRECTORY COMMAND ARG...
// For a namespace that nobody else is in: what is mounted is gone with it.

#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **arguments) {
  if (count < 4) {
    fprintf(stderr, "usage: crowd COUNT DIRECTORY COMMAND ARG...\n");
    return 2;
  }
  if (mount("crowd", arguments[2], "tmpfs", 0, "mode=755") < 0) {
    perror(arguments[2]);
    return 1;
  }
  for (int i = 0; i < atoi(arguments[1]); i++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", arguments[2], i);
    if (mkdir(path, 0755) < 0 || mount(path, path, NULL, MS_BIND, NULL) < 0) {
      perror(path);
      return 1;
    }
  }
  execvp(arguments[3], arguments + 3);
  perror(arguments[3]);
  return 1;
}
