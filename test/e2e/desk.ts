/**
 * A person at a guest's VNC screen, as one sits at a Windows desktop: the pointer never rests, there is a click and a key
 * every now and then, the picture is asked for all the time. Caps Lock is the key whose effect can be seen from here
 * whatever the guest shows: the guest itself sets the light.
 */
import assert from 'node:assert/strict';
import { until } from '../helpers/colo.ts';
import { RfbClient } from '../helpers/rfb-client.ts';

const STEP_MS = 60_000;
const MOVE_MS = 40;
const CAPS_LOCK = 0xffe5;
const CAPS_LIGHT = 4;
/** Raw pixels; a new size and the keyboard's lights are told. */
const ENCODINGS = [0, -223, -261];

export class Desk {
  readonly #screen: RfbClient;
  readonly #hands: NodeJS.Timeout;
  #moves = 0;
  /** Why it cannot see any more, or null. */
  #end: Error | null = null;

  private constructor(screen: RfbClient) {
    this.#screen = screen;
    this.#hands = setInterval(() => this.#move(), MOVE_MS);
    void this.#look();
  }

  static async at(path: string): Promise<Desk> {
    const desk = new Desk(await RfbClient.connect({ path }, ENCODINGS));
    await desk.seesMore();
    return desk;
  }

  /** Resolves when the picture has been told anew, twice: what was under way may have been the first. */
  async seesMore(): Promise<void> {
    const from = this.#screen.updates;
    await this.#until('updates of the picture', () => this.#screen.updates >= from + 2);
  }

  /** Presses Caps Lock. The guest answers with the light, see `capsLight`. */
  pressCapsLock(): void {
    this.#screen.key(CAPS_LOCK);
  }

  async capsLight(isOn: boolean): Promise<void> {
    await this.#until(
      `Caps Lock ${isOn ? 'on' : 'off'}`,
      () => ((this.#screen.leds ?? 0) & CAPS_LIGHT) === (isOn ? CAPS_LIGHT : 0),
    );
  }

  /** Resolves when its connection is gone. */
  async cutOff(): Promise<void> {
    await until('the client is disconnected', STEP_MS, () => this.#end !== null);
  }

  leave(): void {
    clearInterval(this.#hands);
    this.#screen.socket.destroy();
  }

  async #until(what: string, condition: () => boolean): Promise<void> {
    await until(what, STEP_MS, () => {
      assert.equal(this.#end, null, `${what}: the connection has ended`);
      return condition();
    });
  }

  async #look(): Promise<void> {
    try {
      await this.#screen.update(false);
      for (;;) await this.#screen.update(true);
    } catch (error) {
      this.#end = error as Error;
      clearInterval(this.#hands);
    }
  }

  /** Digits, which no Caps Lock changes. */
  #move(): void {
    const at = this.#moves++;
    this.#screen.pointer(200 + (at % 100), 100 + (at % 70), at % 25 === 0 ? 1 : 0);
    if (at % 5 === 0) this.#screen.key(0x30 + (at % 10));
  }
}
