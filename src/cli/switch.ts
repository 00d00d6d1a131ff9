/**
 * `colo switch`: an Ethernet switch for VMs, with user-mode NAT, that outlives them. The command line alone is here;
 * src/switch/ does the work.
 */
import type { Command } from 'commander';
import { ParameterError } from '../base/errors.ts';
import { tellFailure } from './failure.ts';
import { startSwitch, type ActiveForward, type NatOptions, type RunningSwitch } from '../switch/index.ts';

interface SwitchCommandOptions {
  readonly listen: string[];
  readonly connect: string[];
  readonly nat?: boolean;
  readonly net?: string;
  readonly hostfwd: string[];
  readonly restrict?: boolean;
  readonly libslirp?: string;
  readonly hold: boolean;
  readonly json?: boolean;
}

/** Adds the subcommand `switch` to `program`. */
export function registerSwitch(program: Command): void {
  program
    .command('switch')
    .description("an Ethernet switch for VMs' stream sockets that outlives them, with user-mode NAT")
    .option('--listen <address>', 'accept ports at unix:PATH or tcp:[HOST:]PORT; repeatable', append, [])
    .option('--connect <address>', 'connect a port to a listening peer; repeatable', append, [])
    .option('--nat', 'add user-mode NAT (needs libslirp): gateway .2, DNS .3, DHCP from .15')
    .option('--net <cidr>', "the NAT's network (default: 10.0.2.0/24)")
    .option(
      '--hostfwd <rule>',
      'forward a host port: [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport; repeatable. ' +
        'No hostaddr: 127.0.0.1; hostport 0: any free one',
      append,
      [],
    )
    .option('--restrict', 'let the guests reach nothing outside; forwards still work')
    .option('--libslirp <path>', "libslirp's file (default: COLO_LIBSLIRP, then the system's)")
    .option('--no-hold', 'do not keep frames for a VM that died until its twin takes over')
    .option('--json', 'print the ready line as JSON')
    .action(async (options: SwitchCommandOptions) => {
      try {
        await run(options);
      } catch (error) {
        tellFailure('switch', error);
      }
    });
}

async function run(options: SwitchCommandOptions): Promise<void> {
  const nat = natOptions(options);
  const stop = stopSignal();
  let running: RunningSwitch;
  try {
    const { listen, connect, hold } = options;
    running = await startSwitch({ listen, connect, hold, ...(nat && { nat }) });
  } catch (error) {
    stop.cancel();
    throw error;
  }
  process.stdout.write(readyLine(running, options.json ?? false) + '\n');
  await stop.promise;
  await running.close();
}

function natOptions(options: SwitchCommandOptions): NatOptions | null {
  const { net, libslirp, hostfwd, restrict } = options;
  if (!options.nat) {
    if (net !== undefined || hostfwd.length > 0 || restrict || libslirp !== undefined) {
      throw new ParameterError('--net, --hostfwd, --restrict and --libslirp are for the NAT: add --nat');
    }
    return null;
  }
  return {
    hostForwards: hostfwd,
    isRestricted: restrict ?? false,
    ...(net !== undefined && { cidr: net }),
    ...(libslirp !== undefined && { libslirp }),
  };
}

function readyLine({ addresses, forwards }: RunningSwitch, isJson: boolean): string {
  if (isJson) return JSON.stringify({ addresses, forwards });
  const parts = [...addresses.map((address) => `listening at ${address}`), ...forwards.map(formatForward)];
  return `switch ready: ${parts.join(', ') || 'connecting'}`;
}

function formatForward(forward: ActiveForward): string {
  const { protocol, hostAddress, hostPort, guestAddress, guestPort } = forward;
  return `forwarding ${protocol}:${hostAddress}:${hostPort} to ${guestAddress}:${guestPort}`;
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process as it would without us. */
function stopSignal(): { promise: Promise<void>; cancel: () => void } {
  let cancel = (): void => undefined;
  const promise = new Promise<void>((resolve) => {
    const stop = (): void => {
      cancel();
      resolve();
    };
    cancel = () => {
      process.off('SIGTERM', stop);
      process.off('SIGINT', stop);
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
  });
  return { promise, cancel };
}

function append(value: string, previous: string[]): string[] {
  return [...previous, value];
}
