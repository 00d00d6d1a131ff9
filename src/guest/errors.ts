/** The failures of building a guest image or of getting a Debian file for the host. */
import { ColoError } from '../base/errors.ts';

/** The guest image could not be built; the message names the step, the cause and the way out. */
export class GuestBuildError extends ColoError {}

/** A host program or file is missing and could not be obtained from a Debian package either. */
export class HostToolError extends ColoError {}
