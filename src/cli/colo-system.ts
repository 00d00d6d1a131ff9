#!/usr/bin/env node
/** `colo-system-x86_64`: `colo vm` under the name that scripts made for QEMU look for. */
import { runVm } from './vm.ts';

process.exitCode = await runVm('colo-system-x86_64', process.argv.slice(2));
