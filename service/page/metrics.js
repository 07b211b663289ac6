// Describes the quality metrics in manifests: name, unit, which direction is better, and what was measured.

const SAME_NOISE = "the teacher's image of all its steps, from the same noise";

const KNOWN = {
  psnr_db: {
    label: "PSNR to the teacher", unit: "dB", better: "higher",
    about: `Peak signal-to-noise ratio against ${SAME_NOISE}: the mean over images.`,
  },
  psnr_p10_db: {
    label: "PSNR, worst tenth", unit: "dB", better: "higher",
    about: `Peak signal-to-noise ratio against ${SAME_NOISE}, which nine images of ten exceed.`,
  },
  ssim: {
    label: "SSIM to the teacher", better: "higher",
    about: `Structural similarity to ${SAME_NOISE}; 1 is identical.`,
  },
  rmse: {
    label: "RMSE to the teacher", unit: "of 255", better: "lower",
    about: `Root mean square difference from ${SAME_NOISE}, pixel by pixel.`,
  },
  kid: {
    label: "KID", unit: "× 1000", factor: 1000, better: "lower",
    about: "Kernel distance between the features of generated and of real images.",
  },
  fd: {
    label: "Fréchet distance", better: "lower",
    about: "Fréchet distance between the features of generated and of real images.",
  },
  fid: {
    label: "FID", better: "lower",
    about: "Fréchet distance between the Inception features of generated and of real images.",
  },
  precision: {
    label: "Precision", better: "higher",
    about: "Share of generated images that lie among the real ones.",
  },
  recall: {
    label: "Recall", better: "higher",
    about: "Share of real images that lie among the generated ones.",
  },
  class_agreement: {
    label: "Class agreement", unit: "%", factor: 100, share: true, better: "higher",
    about: "Share of images that a classifier, trained on real ones, takes for the class that was asked for.",
  },
  cosine: {
    label: "Cosine to the teacher", better: "higher",
    about: `Cosine between the features of an image and those of ${SAME_NOISE}.`,
  },
  same_noise: {
    label: "Same noise found", unit: "%", factor: 100, share: true, better: "higher",
    about: "Share of images whose nearest image of the teacher is the one from the same noise.",
  },
};
const Z = 1.96; // standard normal quantile of a 95 % interval

/** Describe a metric. An unknown one keeps its name and, if it ranks the models, has a direction. */
export function metric(name, ranking) {
  const better = name === ranking?.metric ? ranking.better : undefined;
  const { label = name, factor = 1, ...rest } = { better, ...KNOWN[name] };
  return { ...rest, name, factor, title: rest.unit ? `${label}, ${rest.unit}` : label };
}

/** Return the names in a list of {metric: value}, known ones first, without the bounds of intervals. */
export function named(list) {
  const names = new Set(list.flatMap(Object.keys).filter((name) => !/_(low|high)$/.test(name)));
  return [...Object.keys(KNOWN).filter((name) => names.delete(name)), ...names];
}

/**
 * Return {value, low, high} in the metric's unit. A share of n images gets Wilson's interval; other metrics the recorded one,
 * if any.
 */
export function reading({ name, factor, share }, metrics, n) {
  const value = metrics[name];
  let low = metrics[`${name}_low`], high = metrics[`${name}_high`];
  if (share) {
    const middle = (value + Z ** 2 / (2 * n)) / (1 + Z ** 2 / n);
    const half = (Z * Math.sqrt((value * (1 - value)) / n + Z ** 2 / (4 * n ** 2))) / (1 + Z ** 2 / n);
    [low, high] = [middle - half, middle + half];
  }
  const exists = low !== undefined && high !== undefined;
  return { value: value * factor, low: exists ? low * factor : undefined, high: exists ? high * factor : undefined };
}
