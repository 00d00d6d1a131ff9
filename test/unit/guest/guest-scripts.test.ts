/** The guest's scripts parse, and options reach the kernel command line. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it, type TestContext } from 'node:test';
import { ARCHITECTURES, findArch } from '../../../src/guest/arch.ts';
import { GuestBuildError } from '../../../src/guest/errors.ts';
import { bootConfig, RC, RC_SHUTDOWN } from '../../../src/guest/guest-scripts.ts';
import { checkNetwork } from '../../../src/guest/network.ts';
import { services } from '../../../src/guest/services-script.ts';

describe('scripts', () => {
  for (const [name, script] of Object.entries({ RC, RC_SHUTDOWN })) {
    it(`${name} is a well-formed shell script`, () => {
      const result = spawnSync('sh', ['-n'], { input: script, encoding: 'utf8' });
      assert.equal(result.stderr, '');
    });
  }

  for (const arch of ARCHITECTURES) {
    it(`the services for ${arch.name} are a well-formed Perl program that needs no module but strict`, (t: TestContext) => {
      const program = services(arch);
      const result = spawnSync('perl', ['-c', '-'], { input: program, encoding: 'utf8' });
      if (result.error !== undefined) {
        t.skip('perl is not installed');
        return;
      }
      assert.equal(result.stderr, '- syntax OK\n');
      assert.deepEqual(
        [...program.matchAll(/^\s*(?:use|require) (\w+)/gm)].map((match) => match[1]),
        ['strict'],
      );
    });
  }
});

describe('findArch', () => {
  it('gives i386 unless told otherwise', () => {
    assert.equal(findArch(undefined).name, 'i386');
    assert.equal(findArch('amd64').kernelMetapackage, 'linux-image-amd64');
  });

  it('names what can be had', () => {
    assert.throws(() => findArch('riscv64'), /'riscv64'; ask for i386 or amd64/);
  });
});

describe('bootConfig', () => {
  it('leaves the network to the guest by default', () => {
    assert.doesNotMatch(bootConfig({}), /colo\.ip|colo\.gw/);
  });

  it('puts address and gateway on the kernel command line', () => {
    const config = bootConfig({ ip: '192.0.2.7/24', gateway: '192.0.2.1' });
    assert.match(config, /^ {2}APPEND .* colo\.ip=192\.0\.2\.7\/24 colo\.gw=192\.0\.2\.1$/m);
  });

  it('lets IPv6 be where an address is given for it', () => {
    assert.match(bootConfig({}), / ipv6\.disable=1 /);
    const config = bootConfig({ ip6: 'fd00::f/64', gateway6: 'fd00::2' });
    assert.match(config, /^ {2}APPEND .* colo\.ip6=fd00::f\/64 colo\.gw6=fd00::2$/m);
    assert.doesNotMatch(config, /ipv6\.disable/);
  });

  it('stays within the 2047 characters that the kernel takes', () => {
    assert.ok(bootConfig({ ip: '255.255.255.255/32', gateway: '255.255.255.255' }).length < 2047);
  });
});

describe('checkNetwork', () => {
  it('accepts what is left out or right', () => {
    checkNetwork({});
    checkNetwork({ ip: '10.0.2.15/24', gateway: '10.0.2.2' });
    checkNetwork({ ip6: 'fd00::f/64', gateway6: 'fe80::1' });
  });

  for (const ip of ['10.0.2.15', '10.0.2.15/33', '10.0.2/24', '10.0.2.15/24 init=/bin/sh', '::1/64', '']) {
    it(`refuses the address "${ip}"`, () => {
      assert.throws(() => checkNetwork({ ip }), GuestBuildError);
    });
  }

  for (const ip6 of [
    'fd00::f',
    'fd00::f/129',
    '10.0.2.15/24',
    'fe80::1%eth0/64',
    'fd00::f/64 init=/bin/sh',
    '',
  ]) {
    it(`refuses the IPv6 address "${ip6}"`, () => {
      assert.throws(() => checkNetwork({ ip6 }), GuestBuildError);
    });
  }

  it('refuses a gateway that is no address, or has none beside it', () => {
    assert.throws(() => checkNetwork({ gateway: 'router' }), GuestBuildError);
    for (const gateway6 of ['10.0.2.2', 'fe80::1%eth0', '']) {
      assert.throws(() => checkNetwork({ ip6: 'fd00::f/64', gateway6 }), GuestBuildError);
    }
    assert.throws(() => checkNetwork({ gateway6: 'fd00::2' }), /--ip6/);
  });
});
