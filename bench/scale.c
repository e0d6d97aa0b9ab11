// What a host may have much of, for scale.ts:
//
//   scale mounts FROM TO SOURCE DIRECTORY   binds SOURCE on DIRECTORY/FROM and those after it, to below DIRECTORY/TO
//   scale threads COUNT                     so many idle threads, until stdin ends; says "ready"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static void *idle(void *argument) {
  for (;;) pause();
  return argument;
}

static int threads(long count) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 * 1024);
  for (long made = 0; made < count; made++) {
    pthread_t thread;
    int error = pthread_create(&thread, &attributes, idle, NULL);
    if (error) {
      printf("%ld threads, then: %s\n", made, strerror(error));
      return 1;
    }
  }
  puts("ready");
  fflush(stdout);
  while (read(0, &(char){0}, 1) > 0) continue;
  // Not exit(), which the threads need not hear of.
  _exit(0);
}

static int mounts(long from, long to, const char *source, const char *directory) {
  for (long number = from; number < to; number++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%ld", directory, number);
    if (mkdir(path, 0755) < 0 || mount(source, path, NULL, MS_BIND, NULL) < 0) {
      perror(path);
      return 1;
    }
  }
  return 0;
}

int main(int count, char **arguments) {
  if (count == 3 && strcmp(arguments[1], "threads") == 0) return threads(atol(arguments[2]));
  if (count == 6 && strcmp(arguments[1], "mounts") == 0)
    return mounts(atol(arguments[2]), atol(arguments[3]), arguments[4], arguments[5]);
  fprintf(stderr, "usage: scale mounts FROM TO SOURCE DIRECTORY | scale threads COUNT\n");
  return 2;
}
