export const told = (page, age, picture) => ({ text: `release ${RELEASE}: page ${page}, text ${age}`, picture })
