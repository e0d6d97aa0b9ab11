// What a process with all rights over its mount namespace finds when it tries to leave its root: one line for each attempt.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Which directory this is, and how much is in it.
static void show(const char *what, const char *path) {
  struct stat status, parent;
  int count = 0;
  DIR *directory = opendir(path);
  while (directory && readdir(directory)) count++;
  if (directory) closedir(directory);
  char up[64];
  snprintf(up, sizeof up, "%s/..", path);
  if (stat(path, &status) < 0 || stat(up, &parent) < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: inode %lu, up %lu, %d names\n", what, status.st_ino, parent.st_ino, count);
}

static void tell(const char *what, int result) {
  printf("%s: %s\n", what, result < 0 ? strerror(errno) : "done");
}

static void climb(void) {
  for (int i = 0; i < 64; i++) {
    if (chdir("..") < 0) printf("chdir: %s\n", strerror(errno));
  }
}

// Each attempt in a process and a mount namespace of its own, so that none sees what another has done.
static void attempt(const char *name, void (*work)(void)) {
  printf("-- %s\n", name);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    if (unshare(CLONE_NEWNS) < 0) _exit(9);
    work();
    fflush(stdout);
    _exit(0);
  }
  int status;
  waitpid(pid, &status, 0);
  if (status != 0) printf("ended with %d\n", status);
  fflush(stdout);
}

static void look(void) {
  show("root", "/");
  climb();
  show("up from the root", ".");
}

static void leave_chroot(void) {
  int top = open("/", O_RDONLY | O_DIRECTORY);
  mkdir("/tmp/jail", 0755);
  tell("chroot", chroot("/tmp/jail"));
  tell("fchdir", fchdir(top));
  climb();
  show("up from a kept descriptor", ".");
  tell("chroot again", chroot("."));
  show("root", "/");
}

static void leave_bind(void) {
  tell("bind", mount("/tmp", "/tmp", NULL, MS_BIND, NULL));
  tell("chdir", chdir("/tmp"));
  tell("detach", umount2("/tmp", MNT_DETACH));
  climb();
  show("up from what was detached", ".");
}

static void unmount_root(void) {
  tell("unmount", umount2("/", 0));
  show("root", "/");
}

static void bind_root(void) {
  tell("bind", mount("/", "/tmp", NULL, MS_BIND | MS_REC, NULL));
  tell("chroot", chroot("/tmp"));
  climb();
  show("up from a copy", ".");
}

static void move_root(void) {
  tell("move", mount("/", "/tmp", NULL, MS_MOVE, NULL));
  show("root", "/");
}

static void pivot(void) {
  tell("bind", mount("/tmp", "/tmp", NULL, MS_BIND, NULL));
  tell("chdir", chdir("/tmp"));
  tell("pivot_root", syscall(SYS_pivot_root, ".", "."));
  show("new root", ".");
  tell("detach the old", umount2(".", MNT_DETACH));
  climb();
  show("up from the new root", ".");
}

static void new_user_namespace(void) {
  tell("unshare", unshare(CLONE_NEWUSER | CLONE_NEWNS));
  show("root", "/");
  tell("unmount", umount2("/", MNT_DETACH));
  climb();
  show("up from the root", ".");
}

static void own_namespace(void) {
  int own = open("/proc/self/ns/mnt", O_RDONLY);
  tell("setns", setns(own, CLONE_NEWNS));
  show("root", "/");
  climb();
  show("up from the root", ".");
}

static void remount(void) {
  tell("remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
  tell("propagation", mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL));
  show("root", "/");
}

static void detach_root(void) {
  printf("detach: %s\n", umount2("/", MNT_DETACH) < 0 ? "refused" : "done");
  show("root", "/");
  climb();
  show("up from the root", ".");
  tell("open", open("/bin", O_RDONLY));
}

int main(int count, char **arguments) {
  if (count > 1 && strcmp(arguments[1], "detach") == 0) {
    attempt("detach the root", detach_root);
    return 0;
  }
  attempt("look", look);
  attempt("leave a chroot", leave_chroot);
  attempt("leave a bind", leave_bind);
  attempt("bind the root", bind_root);
  attempt("its own namespace", own_namespace);
  attempt("a new user namespace", new_user_namespace);
  attempt("pivot_root", pivot);
  attempt("remount", remount);
  attempt("unmount the root", unmount_root);
  attempt("move the root", move_root);
  return 0;
}
