/* Constants of physics and geometry; the same values as in beamline.core.units. */
#ifndef BEAMLINE_CONSTANTS_H
#define BEAMLINE_CONSTANTS_H

#define HC_EV_ANGSTROM 12398.419843 /* CODATA 2018, exact by the 2019 SI */
#define SI111_ANGSTROM 3.135601154  /* a = 5.431020511 Å (CODATA 2018) over sqrt(3) */
#define PI 3.141592653589793
#define DEGREE 0.017453292519943295 /* rad */
#define FWHM_PER_SIGMA 2.3548200450309493

#endif
