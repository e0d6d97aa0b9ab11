// The specs import the package by its own name, so what they run is dist/ and the built addon.
export default {
  files: ['__test__/**/*.spec.ts'],
  extensions: { ts: 'module' },
  nodeArguments: ['--import=@oxc-node/core/register'],
  // A process a file: credentials, the cwd and the supervisor belong to a process, not to a thread.
  workerThreads: false,
  // One file at a time: specs compare the machine's mounts, processes and fds before and after, and time things.
  // scripts/test.ts runs two at a time where that disturbs nobody.
  concurrency: 1,
  // The longest silence, not the length of the run.
  timeout: '5m',
}
